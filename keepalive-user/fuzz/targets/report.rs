//! Any bytes as the contents of a block in a sound recording, as a page and as pictures.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::report(&fuzzing::as_recording(bytes));
});
