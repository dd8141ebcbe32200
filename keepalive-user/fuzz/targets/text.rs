//! Any bytes as the contents of a block in a sound recording, as text with its summary.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::text(&fuzzing::as_recording(bytes));
});
