//! Any bytes as the contents of a block in a sound recording: every record there can be goes
//! through decoder, tracker and JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// A recording, of which the header is used.
const SOUND: &[u8] = include_bytes!("../../tests/recordings/v1.kar");
/// Magic, version, length and checksum.
const PREFIX: usize = 20;

fuzz_target!(|bytes: &[u8]| {
    let header = SOUND[12..16].first_chunk().copied().map(u32::from_le_bytes);
    let end = PREFIX + header.unwrap_or_default() as usize;
    let length = (bytes.len() as u32).to_le_bytes();
    // Checksums are not looked at under the fuzzer.
    let file = [&SOUND[..end], &length, &length, &[0; 4], bytes].concat();
    let _ = keepalive_user::fold(&file);
});
