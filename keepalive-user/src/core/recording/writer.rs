//! Writing one file: frames are collected in a block, and a block is written as a whole.

use std::io::Write;

use anyhow::{Context, Result};

use super::{BLOCK_MAX, BLOCK_PREFIX, COMPRESSED, Frame, Header, MAGIC, VERSION};

/// A block is written at this length, even without a flush.
const BLOCK: usize = 256 << 10;
/// Level of zstd: lower levels give larger blocks, higher ones only take more time.
const LEVEL: i32 = 1;

/// One recording being written.
pub struct Writer<W: Write> {
    inner: W,
    block: Vec<u8>,
    /// The block being written: prefix and contents.
    out: Vec<u8>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    /// Bytes written so far.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// If `inner` cannot be written to.
    pub fn new(inner: W, header: &Header, compressed: bool) -> Result<Self> {
        let compressor = compressed
            .then(|| zstd::bulk::Compressor::new(LEVEL))
            .transpose()
            .context("zstd")?;
        let mut writer = Self {
            inner,
            block: Vec::with_capacity(BLOCK + BLOCK / 4),
            out: Vec::new(),
            compressor,
            written: 0,
        };
        let json = serde_json::to_vec(header)?;
        let length = u32::try_from(json.len())?;
        let mut bytes = Vec::with_capacity(json.len() + 20);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(crc32fast::hash(&json).to_le_bytes());
        bytes.extend(json);
        writer.write(&bytes)?;
        Ok(writer)
    }

    /// Adds a frame; the next [`Writer::flush`] writes it at the latest.
    pub fn frame(&mut self, frame: &Frame<'_>) -> Result<()> {
        frame.write(&mut self.block);
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the buffered frames.
    pub fn flush(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        debug_assert!(self.block.len() <= BLOCK_MAX);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        out.extend([0; BLOCK_PREFIX]);
        let mut flag = 0;
        match &mut self.compressor {
            None => out.extend(&self.block),
            Some(compressor) => {
                flag = COMPRESSED;
                out.extend(compressor.compress(&self.block).context("zstd")?);
            }
        }
        let stored = &out[BLOCK_PREFIX..];
        let prefix = [
            u32::try_from(stored.len())? | flag,
            u32::try_from(self.block.len())?,
            crc32fast::hash(stored),
        ];
        for (place, number) in out.chunks_exact_mut(4).zip(prefix) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.block.clear();
        self.write(&out)?;
        self.out = out;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Bytes of the file so far, including the buffered frames.
    pub fn length(&self) -> u64 {
        self.written + self.block.len() as u64
    }
}
