//! Any bytes as the contents of a block in a sound recording of each version: every record there can be goes
//! through decoder and tracker, and comes out as JSON.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for recording in fuzzing::as_recordings(bytes) {
        let _ = fuzzing::json(&recording);
    }
});
