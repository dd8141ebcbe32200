//! Reading one file, which may be truncated, damaged or not a recording at all.

use std::io::{self, Read};

use anyhow::{Context, Result, bail, ensure};
use keepalive_ebpf::RawRecord;
use zerocopy::{IntoBytes, TryFromBytes};

use super::{
    BLOCK_MAX, BLOCK_PREFIX, COMPRESSED, Frame, HEADER_MAX, Header, MAGIC, PREFIX, VERSION,
    Version, v1,
};

/// How a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileEnd {
    /// Complete, with the end of the trace.
    Whole,
    /// The recording continues in the next file.
    Continued,
    /// Truncated at this byte: the trace was killed, or the file was cut.
    Cut(u64),
}

/// A recording being read. Keeps one block in memory at a time.
pub struct Reader<R> {
    inner: R,
    pub header: Header,
    version: Version,
    /// Bytes of the file read so far.
    position: u64,
    /// Start of the current block in the file.
    block_start: u64,
    stored: Vec<u8>,
    plain: Vec<u8>,
    /// How much of `plain` has been read.
    taken: usize,
    /// The last record that was read.
    record: RawRecord,
    decompressor: zstd::bulk::Decompressor<'static>,
    end: Option<FileEnd>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// If this is not a recording, or its version is not supported.
    pub fn new(mut inner: R) -> Result<Self> {
        let mut prefix = [0; PREFIX];
        let got = read_full(&mut inner, &mut prefix)?;
        let magic = &prefix[..got.min(MAGIC.len())];
        ensure!(
            got > 0 && MAGIC.starts_with(magic),
            "not a keepalive recording"
        );
        ensure!(got == PREFIX, "truncated at byte {got}, within the header");
        let number = |at: usize| {
            let bytes = prefix[at..].first_chunk().copied().unwrap_or_default();
            u32::from_le_bytes(bytes)
        };
        let Ok(version) = Version::try_read_from_bytes(number(8).as_bytes()) else {
            bail!(
                "format version {} is not supported: this keepalive reads versions 1 to {VERSION}",
                number(8)
            );
        };
        let length = number(12) as usize;
        ensure!(
            length <= HEADER_MAX,
            "invalid header: a length of {length} bytes"
        );
        let mut header = vec![0; length];
        let got = read_full(&mut inner, &mut header)?;
        ensure!(
            got == length,
            "truncated at byte {}, within the header",
            PREFIX + got
        );
        ensure!(
            is_sound(&header, number(16)),
            "damaged header: wrong checksum"
        );
        let position = (PREFIX + length) as u64;
        Ok(Self {
            inner,
            header: Header::parse(&header, version)?,
            version,
            position,
            block_start: position,
            stored: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            record: [0; _],
            decompressor: zstd::bulk::Decompressor::new().context("zstd")?,
            end: None,
        })
    }

    /// The next frame; `None` at the end, for which [`Reader::end`] gives the reason.
    ///
    /// # Errors
    /// If the file is damaged; the error contains the byte offset. Nothing can be read after that.
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>> {
        if self.end.is_some() || (self.taken >= self.plain.len() && !self.read_block()?) {
            return Ok(None);
        }
        let mut rest = &self.plain[self.taken..];
        let before = rest.len();
        let read = match self.version {
            Version::One => v1::read(&mut rest, &mut self.record),
            Version::Two => Frame::read_abi1(&mut rest, &mut self.record),
            Version::Three => Frame::read(&mut rest, &mut self.record),
        };
        let frame = read.with_context(|| {
            let (block, frame) = (self.block_start, self.taken);
            format!("damaged in the block at byte {block}, {frame} bytes into its contents")
        })?;
        self.taken += before - rest.len();
        match frame {
            Frame::End { .. } => self.end = Some(FileEnd::Whole),
            Frame::Continued => self.end = Some(FileEnd::Continued),
            Frame::Record(_)
            | Frame::Seed { .. }
            | Frame::Process { .. }
            | Frame::Cgroup { .. }
            | Frame::Lost { .. }
            | Frame::Missed { .. }
            | Frame::Host(_)
            | Frame::Finding(_)
            | Frame::Undecodable(_) => {}
        }
        Ok(Some(frame))
    }

    /// Checks that a file ends where its recording does. A pipe may stay open.
    ///
    /// # Errors
    /// If more bytes follow, or cannot be read.
    pub fn nothing_follows(&mut self) -> Result<()> {
        let at = self.position;
        let is_end = self.taken >= self.plain.len() && read_full(&mut self.inner, &mut [0])? == 0;
        ensure!(
            is_end,
            "the recording ends at byte {at}, and more bytes follow: they are not replayed"
        );
        Ok(())
    }

    /// How the file ended, if its end was reached.
    pub fn end(&self) -> FileEnd {
        self.end.unwrap_or(FileEnd::Cut(self.position))
    }

    /// Bytes of the file read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Reads the next whole block; false if there is none.
    fn read_block(&mut self) -> Result<bool> {
        self.block_start = self.position;
        self.taken = 0;
        self.plain.clear();
        let mut prefix = [0; BLOCK_PREFIX];
        let got = read_full(&mut self.inner, &mut prefix)?;
        self.position += got as u64;
        if got < BLOCK_PREFIX {
            self.end = Some(FileEnd::Cut(self.position));
            return Ok(false);
        }
        let [stored, plain, crc] = [0, 4, 8].map(|at| {
            let bytes = prefix[at..].first_chunk().copied().unwrap_or_default();
            u32::from_le_bytes(bytes)
        });
        let (compressed, stored) = (stored & COMPRESSED != 0, (stored & !COMPRESSED) as usize);
        let plain = plain as usize;
        let start = self.block_start;
        ensure!(
            stored <= BLOCK_MAX && plain <= BLOCK_MAX && plain > 0,
            "damaged at byte {start}: a block of {stored} bytes, {plain} bytes uncompressed"
        );
        self.stored.resize(stored, 0);
        let got = read_full(&mut self.inner, &mut self.stored)?;
        self.position += got as u64;
        if got < stored {
            self.end = Some(FileEnd::Cut(self.position));
            return Ok(false);
        }
        ensure!(
            is_sound(&self.stored, crc),
            "damaged at byte {start}: wrong checksum of the block"
        );
        if compressed {
            self.plain.reserve(plain);
            let unpacked = self
                .decompressor
                .decompress_to_buffer(&self.stored, &mut self.plain);
            unpacked.with_context(|| format!("damaged at byte {start}"))?;
        } else {
            std::mem::swap(&mut self.plain, &mut self.stored);
        }
        if self.plain.len() != plain {
            let got = std::mem::take(&mut self.plain).len();
            bail!("damaged at byte {start}: {got} bytes instead of {plain}");
        }
        Ok(true)
    }
}

/// Whether the checksum matches. Fuzzing skips it: a fuzzer cannot produce valid checksums.
fn is_sound(bytes: &[u8], crc: u32) -> bool {
    cfg!(fuzzing) || crc32fast::hash(bytes) == crc
}

/// Fills the buffer as far as the input allows.
fn read_full(inner: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match inner.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot be read"),
        }
    }
    Ok(got)
}
