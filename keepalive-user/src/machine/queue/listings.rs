//! Listings on standard output: one, or repeated ones.

use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::{Context, Result};

use super::{PATIENCE, Queued};
use crate::core::pipeline::{Output, Render};

/// Writes listings; each ends with a flush.
pub enum Listings {
    /// One listing: a slow reader delays it.
    Once(BufWriter<StdoutLock<'static>>),
    /// A slow reader misses whole ones, and delays none.
    Repeated {
        gathered: Vec<u8>,
        queued: Queued,
        /// The notice of missing lines is not one of the lines.
        json: bool,
    },
}

impl Listings {
    pub fn once() -> Self {
        Self::Once(BufWriter::with_capacity(1 << 16, io::stdout().lock()))
    }

    /// # Errors
    /// If the descriptor of standard output cannot be copied.
    pub fn repeated(render: Box<dyn Render>, json: bool) -> Result<Self> {
        Ok(Self::Repeated {
            gathered: Vec::new(),
            queued: Queued::stdout(render)?,
            json,
        })
    }

    /// Ends a listing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end(&mut self) -> Result<()> {
        match self {
            Self::Once(writer) => writer.flush().context("cannot write"),
            Self::Repeated {
                gathered,
                queued,
                json,
            } => {
                if *json {
                    let missed = queued.take_missed().lines;
                    if missed > 0 {
                        log::warn!("{missed} lines are missing: the reader was too slow");
                    }
                }
                let listing = std::mem::take(gathered);
                queued.text(|line| {
                    line.extend(&listing);
                    Ok(())
                })?;
                queued.flush()
            }
        }
    }

    /// Waits until the reader has taken the last listing, but not for long.
    pub fn finish(&mut self) -> Result<()> {
        match self {
            Self::Once(_) => Ok(()),
            Self::Repeated { queued, .. } => queued.finish(PATIENCE),
        }
    }
}

impl Write for Listings {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Once(writer) => writer.write(bytes),
            Self::Repeated { gathered, .. } => gathered.write(bytes),
        }
    }

    /// A repeated listing is written when it ends ([`Listings::end`]).
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Once(writer) => writer.flush(),
            Self::Repeated { .. } => Ok(()),
        }
    }
}
