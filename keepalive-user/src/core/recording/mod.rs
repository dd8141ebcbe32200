//! # Recordings
//!
//! What went into the tracker, in order, in a file: replayed it gives what the live trace gave.
//!
//! ```text
//! file   = MAGIC, version u32, length u32, crc32 u32, header (JSON)
//!          block*
//! block  = stored length u32 (bit 31: zstd), plain length u32, crc32 u32 of what is stored, frames
//! frame  = kind u8, length u16, contents (see `frame`; `v1` for files of version 1)
//! ```
//!
//! All numbers are little endian. A file is only ever appended to, a whole block at a time, so that
//! one cut anywhere is readable up to the last whole block before the cut. Nothing here knows the
//! kernel, and nothing in a file is trusted: every length is bounded before it is believed.

mod bytes;
mod frame;
mod places;
mod reader;
mod recorder;
mod v1;
mod writer;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use zerocopy::TryFromBytes;

pub use self::{
    frame::Frame,
    reader::{End, Reader},
    recorder::{Limits, Recorder, Storage},
    writer::Writer,
};
use super::event::Start;

/// How every recording begins.
const MAGIC: [u8; 8] = *b"\x7fKEEPAL\n";
/// Versions of the format. A version is for what an older program would misread: what is only added to
/// a frame, as `frame` has it, is none.
#[repr(u32)]
#[expect(dead_code, reason = "made of bytes, not by name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
enum Version {
    /// Frames without a length.
    One = 1,
    Two = 2,
}

/// What is written. Older ones stay readable.
pub const VERSION: u32 = Version::Two as u32;
/// Magic, version, length and checksum of the header.
const PREFIX: usize = 20;
/// Longest header, bytes.
const HEADER_MAX: usize = 1 << 20;
/// Stored length, plain length, checksum.
const BLOCK_PREFIX: usize = 12;
/// Longest block, bytes; what a reader has to hold at once.
const BLOCK_MAX: usize = 1 << 20;
/// In the stored length: the block is compressed.
const COMPRESSED: u32 = 1 << 31;

/// What is needed to understand the rest of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// `keepalive_ebpf::ABI_VERSION` of the records.
    pub abi_version: u32,
    /// Number of this file among those of one trace, from 0.
    pub sequence: u32,
    /// The first line of the trace: kernel, tick, clock offset, filters.
    pub start: Start,
    /// `-p`: events about other processes' sockets are not shown.
    pub pid: Option<u32>,
    /// `-n`: the trace ends after so many events.
    pub count: Option<u64>,
    /// The words of `keepalive_ebpf::KernelLayout`: where the kernel keeps what was read.
    pub layout: Vec<u32>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let header: Self = serde_json::from_slice(bytes).context("its header cannot be read")?;
        ensure!(
            header.abi_version == keepalive_ebpf::ABI_VERSION,
            "its records are of version {}, this keepalive reads version {}",
            header.abi_version,
            keepalive_ebpf::ABI_VERSION
        );
        ensure!(
            (1..=100_000).contains(&header.start.hz),
            "its kernel is said to tick {} times a second",
            header.start.hz
        );
        Ok(header)
    }

    /// Whether this is the file after `other` of the same trace.
    pub fn continues(&self, other: &Self) -> bool {
        self.start == other.start && self.sequence == other.sequence.wrapping_add(1)
    }
}

/// Whether a file that begins with these bytes is a recording.
pub fn is_recording(beginning: &[u8]) -> bool {
    beginning.starts_with(&MAGIC)
}

#[cfg(test)]
mod tests;
