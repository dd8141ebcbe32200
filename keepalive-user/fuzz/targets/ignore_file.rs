//! Any bytes as an ignore file of `audit`.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::ignore_file(bytes);
});
