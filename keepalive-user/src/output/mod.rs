//! # Outputs
//!
//! One file or folder per output format. An output receives events only, not the kernel or the
//! machine, so that a replayed recording and a live trace print the same. An output of a trace
//! implements `core::pipeline::Output`; `machine` decides where and how it is written.

pub mod audit;
pub mod doctor;
pub mod explain;
mod host;
mod json;
pub mod list;
mod pretty;
mod report;
mod schema;
mod summary;
pub mod top;
pub mod words;

use std::io::Write;

use anyhow::{Context, Result};
use jiff::tz::TimeZone;

use self::json::json_line;
pub use self::{
    report::Report,
    schema::{SchemaOf, schema},
    summary::Summary,
};
use crate::core::{
    event::Event,
    pipeline::{Output, Render},
};

/// The format of the lines.
pub enum Format {
    /// One object per line.
    Json,
    /// One line of text per event, and a table at the end.
    Text {
        colour: bool,
        zone: TimeZone,
        summary: Box<Summary>,
    },
}

impl Format {
    pub fn of(json: bool, colour: bool, zone: TimeZone) -> Self {
        if json {
            return Self::Json;
        }
        Self::Text {
            colour,
            zone,
            summary: Box::default(),
        }
    }

    /// Writes the lines of one event.
    ///
    /// # Errors
    /// If the writer fails.
    pub fn event(&mut self, event: &Event, writer: &mut impl Write) -> Result<()> {
        match self {
            Self::Json => json_line(event, writer),
            Self::Text {
                colour,
                zone,
                summary,
            } => {
                summary.add(event);
                pretty::line(event, *colour, zone, writer)?;
                match event {
                    Event::End(end) => summary.table(end, writer),
                    Event::Start(_)
                    | Event::Armed(_)
                    | Event::Timer(_)
                    | Event::WindowProbe(_)
                    | Event::SendRetry(_)
                    | Event::Answer(_)
                    | Event::Closed(_)
                    | Event::Finding(_)
                    | Event::Lost(_)
                    | Event::Missed(_)
                    | Event::Suspend(_)
                    | Event::ClockStep(_)
                    | Event::Sysctl(_) => Ok(()),
                }
            }
        }
    }
}

impl Render for Format {
    fn render(&mut self, event: &Event, lines: &mut Vec<u8>) -> Result<()> {
        self.event(event, lines)
    }
}

/// Lines for a writer that may block: `replay` waits for its reader.
pub struct Lines<W> {
    pub format: Format,
    pub writer: W,
}

impl<W: Write> Output for Lines<W> {
    fn event(&mut self, event: &Event) -> Result<()> {
        self.format.event(event, &mut self.writer)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().context("cannot write")
    }
}

#[cfg(test)]
pub mod tests;
