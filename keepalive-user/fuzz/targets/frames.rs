//! Any bytes as the contents of a block in a sound recording: every record there can be goes
//! through decoder and tracker, and comes out as JSON.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::json(&fuzzing::as_recording(bytes));
});
