//! Any bytes as the contents of a block in a valid recording of each version: every possible record goes
//! through decoder and tracker, and is output as JSON.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for recording in fuzzing::as_recordings(bytes) {
        let _ = fuzzing::json(&recording);
    }
});
