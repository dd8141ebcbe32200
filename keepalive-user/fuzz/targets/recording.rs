//! Any bytes as a recording: replayed to the end, or an error; never a panic, never much memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Checksums are not verified under the fuzzer: it could not produce valid ones.
    let _ = keepalive_user::fuzzing::fold(bytes);
});
