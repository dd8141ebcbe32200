//! What the pipeline needs of an output. One without a reader of its own implements `event` only.

use std::time::Duration;

use anyhow::Result;

use crate::core::event::Event;

/// An output of events: lines, a screen, a report.
pub trait Output {
    /// Outputs one event. It may be buffered until [`Output::flush`].
    ///
    /// # Errors
    /// If the output has failed.
    fn event(&mut self, event: &Event) -> Result<()>;

    /// Flushes what was output.
    ///
    /// # Errors
    /// If the output has failed.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Returns and resets the count of lines that a reader did not take, once it takes lines again.
    fn take_missed(&mut self) -> MissedLines {
        MissedLines::default()
    }

    /// Whether the output has failed.
    fn has_failed(&self) -> bool {
        false
    }

    /// The last lines follow. Earlier lines that a reader does not take in time are dropped and counted.
    ///
    /// # Errors
    /// If the output has failed.
    fn settle(&mut self, _patience: Duration) -> Result<()> {
        Ok(())
    }

    /// Waits until the reader has taken everything, but no longer than this.
    ///
    /// # Errors
    /// If the reader did not take it in time, or the output has failed.
    fn finish(&mut self, _patience: Duration) -> Result<()> {
        Ok(())
    }
}

/// The format of an event in a byte stream.
pub trait Render {
    /// Appends the lines of one event; nothing if it has none.
    ///
    /// # Errors
    /// If it cannot be rendered.
    fn render(&mut self, event: &Event, lines: &mut Vec<u8>) -> Result<()>;
}

/// Lines that a reader did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MissedLines {
    pub lines: u64,
    /// Keepalive probes among the events in them.
    pub probes: u64,
}
