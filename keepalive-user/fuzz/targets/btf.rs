//! Any bytes as BTF (`--btf FILE`): a layout, or an error.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = fuzzing::btf(bytes);
});
