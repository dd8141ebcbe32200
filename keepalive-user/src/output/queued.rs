//! Lines of a live session: made at once, and written when the reader takes them.

use std::{
    fs::File,
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    Format,
    queue::{Finished, Policy, Queue},
};
use crate::{
    event::Event,
    exit::{Exit, Refusal},
};

/// A format and the queue its lines go to.
pub struct Queued {
    format: Format,
    queue: Queue,
    /// What is written to, for messages.
    name: String,
    line: Vec<u8>,
}

impl Queued {
    pub fn new(format: Format, file: File, name: String) -> Self {
        let policy = Policy::of(&file);
        Self {
            format,
            queue: Queue::new(file, policy),
            name,
            line: Vec::new(),
        }
    }

    pub fn event(&mut self, event: &Event) -> Result<()> {
        let format = &mut self.format;
        self.line.clear();
        format.event(event, &mut self.line)?;
        let is_probe = matches!(event, Event::Timer(timer) if timer.what.attempt.is_some());
        self.offer(is_probe.into())
    }

    /// Adds text that is not an event.
    pub fn text(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        self.line.clear();
        let (missed, _) = self.take_missed();
        if missed > 0 {
            writeln!(
                self.line,
                "{missed} lines are missing here: the reader was too slow."
            )?;
        }
        write(&mut self.line)?;
        self.offer(0)
    }

    /// An event that has no text takes no room and cannot be missed.
    fn offer(&mut self, probes: u64) -> Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let offered = self.queue.offer_probes(&self.line, probes);
        self.written(offered)
    }

    pub fn flush(&mut self) -> Result<()> {
        let flushed = self.queue.flush();
        self.written(flushed)
    }

    /// Lines missing since this was last asked, and keepalive probes among them; 0 while the reader
    /// still takes none.
    pub fn take_missed(&mut self) -> (u64, u64) {
        self.queue.take_missed()
    }

    /// Whether nothing can be written any more.
    pub fn has_failed(&self) -> bool {
        self.queue.has_failed()
    }

    /// What follows is the end. A reader that does not take in time what is before it misses that.
    ///
    /// # Errors
    /// If nothing can be written any more.
    pub fn settle(&mut self, patience: Duration) -> Result<()> {
        let settled = self.queue.settle(patience);
        self.queue.force();
        self.written(settled)
    }

    /// Waits until all is written, but no longer than this.
    ///
    /// # Errors
    /// If it could not be written in time, or at all.
    pub fn finish(&mut self, patience: Duration) -> Result<()> {
        let finished = self.queue.finish(patience);
        match finished {
            Ok(Finished::Written) => Ok(()),
            Ok(Finished::Abandoned(lines)) => Err(self.abandoned(lines).into()),
            Err(error) => self.written(Err(error)),
        }
    }

    fn abandoned(&self, lines: u64) -> Refusal {
        let message = format!(
            "the reader of {} did not take the last {lines} lines in time: they are abandoned, and \
             the last line written may be incomplete",
            self.name
        );
        Refusal::new(Exit::Failure, message)
    }

    fn written(&self, result: io::Result<()>) -> Result<()> {
        result.with_context(|| format!("cannot write to {}", self.name))
    }
}
