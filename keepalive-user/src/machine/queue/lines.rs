//! Lines of a live session: formatted at once, and written when the reader takes them.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{Finished, Policy, Queue};
use crate::{
    core::{
        event::Event,
        exit::{Exit, Refusal},
        pipeline::{MissedLines, Output, Render},
    },
    machine::files,
};

/// How long the reader of standard output may take for the last lines, once the command has to end.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// A queue, and the format of its lines.
pub struct Queued {
    render: Box<dyn Render>,
    queue: Queue,
    /// The name of the file in messages.
    name: String,
    line: Vec<u8>,
    /// The file whose contents the first line replaces: until then the command may be refused.
    replaces: Option<File>,
}

impl Queued {
    /// Lines on standard output.
    ///
    /// # Errors
    /// If the descriptor cannot be copied.
    pub fn stdout(render: Box<dyn Render>) -> Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self::new(render, file, "standard output".to_owned()))
    }

    /// Lines in a file, whose contents the first of them replaces.
    ///
    /// # Errors
    /// If the file cannot be written to.
    pub fn file(render: Box<dyn Render>, path: &Path) -> Result<Self> {
        let file = files::open_to_write(path)?;
        let replaces = file.metadata()?.is_file().then(|| file.try_clone());
        Ok(Self {
            replaces: replaces.transpose()?,
            ..Self::new(render, file, path.display().to_string())
        })
    }

    fn new(render: Box<dyn Render>, file: File, name: String) -> Self {
        let policy = Policy::of(&file);
        Self {
            render,
            queue: Queue::new(file, policy),
            name,
            line: Vec::new(),
            replaces: None,
        }
    }

    /// Adds text that is not an event.
    ///
    /// # Errors
    /// If nothing can be written any more.
    pub fn text(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        self.line.clear();
        let missed = self.queue.take_missed().lines;
        if missed > 0 {
            writeln!(
                self.line,
                "{missed} lines are missing here: the reader was too slow."
            )?;
        }
        write(&mut self.line)?;
        self.offer(0)
    }

    /// Adds the formatted event; one without text takes no room and cannot be missed.
    fn offer(&mut self, probes: u64) -> Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        if let Some(file) = self.replaces.take() {
            self.written(file.set_len(0))?;
        }
        let offered = self.queue.offer_probes(&self.line, probes);
        self.written(offered)
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

impl Output for Queued {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.line.clear();
        self.render.render(event, &mut self.line)?;
        self.offer(event.is_keepalive_probe().into())
    }

    fn flush(&mut self) -> Result<()> {
        let flushed = self.queue.flush();
        self.written(flushed)
    }

    fn take_missed(&mut self) -> MissedLines {
        self.queue.take_missed()
    }

    fn has_failed(&self) -> bool {
        self.queue.has_failed()
    }

    fn settle(&mut self, patience: Duration) -> Result<()> {
        let settled = self.queue.settle(patience);
        self.queue.force();
        self.written(settled)
    }

    fn finish(&mut self, patience: Duration) -> Result<()> {
        match self.queue.finish(patience) {
            Ok(Finished::Written) => Ok(()),
            Ok(Finished::Abandoned(lines)) => Err(self.abandoned(lines).into()),
            Err(error) => self.written(Err(error)),
        }
    }
}
