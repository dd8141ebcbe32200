//! Any bytes as a recording: told to the end, or an error; never a panic, never much memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Checksums are not looked at under the fuzzer, or it would get no further.
    let _ = keepalive_user::fuzzing::fold(bytes);
});
