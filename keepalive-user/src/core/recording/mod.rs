//! # Recordings
//!
//! A recording is a file with the input of the tracker, in order: its replay gives the events of the
//! live trace.
//!
//! ```text
//! file   = MAGIC, version u32, length u32, crc32 u32, header (JSON)
//!          block*
//! block  = stored length u32 (bit 31: zstd), plain length u32, crc32 u32 of what is stored, frames
//! frame  = kind u8, length u16, contents (see `frame`; `v1` for files of version 1, `abi1` for records of
//!          versions 1 and 2)
//! ```
//!
//! All numbers are little endian. A file is only ever appended to, a whole block at a time, so that
//! a truncated file is readable up to its last whole block. This module does not depend on the
//! kernel, and the contents of a file are untrusted: every length is checked before it is used.

mod abi1;
mod bytes;
mod frame;
mod host;
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
    host::HostFrame,
    reader::{FileEnd, Reader},
    recorder::{Limits, Recorder, Storage},
    writer::Writer,
};
use super::event::Start;

/// The first bytes of every recording.
const MAGIC: [u8; 8] = *b"\x7fKEEPAL\n";
/// Versions of the format. A new version is needed only if an older program would misread a file;
/// additions to a frame, as described in `frame`, need none.
#[repr(u32)]
#[expect(dead_code, reason = "made of bytes, not by name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
enum Version {
    /// Frames without a length, and records of ABI 1.
    One = 1,
    /// Records of ABI 1.
    Two = 2,
    Three = 3,
}

impl Version {
    /// The [`keepalive_ebpf::ABI_VERSION`] of its records.
    fn abi(self) -> u32 {
        match self {
            Self::One | Self::Two => 1,
            Self::Three => 2,
        }
    }
}

/// The version that is written. Older ones stay readable.
pub const VERSION: u32 = Version::Three as u32;
/// Magic, version, length and checksum of the header.
const PREFIX: usize = 20;
/// Longest header, bytes.
const HEADER_MAX: usize = 1 << 20;
/// Stored length, plain length, checksum.
const BLOCK_PREFIX: usize = 12;
/// Longest block, bytes; a reader keeps one block in memory.
const BLOCK_MAX: usize = 1 << 20;
/// Flag in the stored length: the block is compressed.
const COMPRESSED: u32 = 1 << 31;

/// The information needed to decode the rest of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// `keepalive_ebpf::ABI_VERSION` of the records, which the version of the format determines.
    pub abi_version: u32,
    /// Number of this file among those of one trace, from 0.
    pub sequence: u32,
    /// The first line of the trace: kernel, tick, clock offset, filters.
    pub start: Start,
    /// `-p`: events about other processes' sockets are not output.
    pub pid: Option<u32>,
    /// `-n`: the trace ends after this many events.
    pub count: Option<u64>,
    /// The words of `keepalive_ebpf::KernelLayout`: the offsets that the programs used.
    pub layout: Vec<u32>,
}

impl Header {
    fn parse(bytes: &[u8], version: Version) -> Result<Self> {
        let header: Self = serde_json::from_slice(bytes).context("invalid header")?;
        ensure!(
            header.abi_version == version.abi(),
            "the records have version {}, those of this format have version {}",
            header.abi_version,
            version.abi()
        );
        ensure!(
            (1..=100_000).contains(&header.start.hz),
            "invalid header: {} ticks per second",
            header.start.hz
        );
        Ok(header)
    }

    /// How many files of the same trace are missing between `other` and this one; `None` if this one does
    /// not follow it.
    pub fn missing_after(&self, other: &Self) -> Option<u32> {
        let distance = self.sequence.checked_sub(other.sequence)?;
        distance
            .checked_sub(1)
            .filter(|_| self.start == other.start)
    }
}

/// Whether a file that begins with these bytes is a recording.
pub fn is_recording(beginning: &[u8]) -> bool {
    beginning.starts_with(&MAGIC)
}

#[cfg(test)]
mod tests;
