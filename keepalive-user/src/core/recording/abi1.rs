//! Records of ABI 1, in files of versions 1 and 2: shorter, with the same fields in the same order. Fields
//! that they lack are zero, which means "not recorded". Read only, and unchanged since.

use std::mem::offset_of;

use keepalive_ebpf::{RawRecord, Record, TcpSample};
use zerocopy::IntoBytes;

use crate::core::wire::{self, Unknown};

/// 32-bit words of a record.
pub const WORDS: usize = 84;
/// Words of a sample.
const SAMPLE: usize = 22;
const BEFORE: usize = 40;
const AFTER: usize = 62;

/// The parts of a record whose words are still together: the first word, how many, and the byte at which
/// they are now.
const PARTS: [(usize, usize, usize); 7] = [
    (0, 8, 0),
    (8, 22, offset_of!(Record, id)),
    (30, 10, offset_of!(Record, settings)),
    (BEFORE, 18, offset_of!(Record, before)),
    (BEFORE + 18, 4, offset_of!(Record, before) + FLAGS),
    (AFTER, 18, offset_of!(Record, after)),
    (AFTER + 18, 4, offset_of!(Record, after) + FLAGS),
];
/// The part of a sample that follows the inserted fields.
const FLAGS: usize = offset_of!(TcpSample, probes_out);

/// The record of these words, in which `after` and `before` are combined as in any record of a file.
///
/// # Errors
/// Names a field with an unknown value.
pub fn record<'a>(
    words: &mut [u32; WORDS],
    place: &'a mut RawRecord,
) -> Result<&'a Record, Unknown> {
    for index in 0..SAMPLE {
        words[BEFORE + index] ^= words[AFTER + index];
    }
    place.fill(0);
    let bytes = place.as_mut_bytes();
    for (from, length, to) in PARTS {
        let (from, length) = (&words[from..from + length], 4 * length);
        bytes[to..to + length].copy_from_slice(from.as_bytes());
    }
    wire::record(place)
}
