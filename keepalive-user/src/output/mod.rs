//! # Outputs
//!
//! What events look like. An output sees events and nothing else: not the kernel, not the tracker,
//! so a recording looks the same as the live machine. A new one is a file here and a variant of
//! [`Output`].

pub mod audit;
pub mod explain;
mod json;
pub mod list;
mod pretty;
mod queue;
mod queued;
mod report;
mod summary;
pub mod top;
pub mod words;

use std::{
    borrow::Cow,
    cell::RefCell,
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    os::fd::AsFd,
    path::Path,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};

use self::json::json_line;
pub use self::{
    queue::{Finished, Policy, Queue, Watcher},
    queued::Queued,
    report::Report,
    summary::{Counts, Summary},
    top::Top,
};
use crate::{
    doctor,
    event::{AuditLine, Event, Explanation, ListLine},
    pipeline::Sink,
};

/// What lines look like.
pub enum Format {
    /// One object per line.
    Json,
    /// One line a person can read, and a table at the end.
    Pretty { colour: bool, summary: Box<Summary> },
}

impl Format {
    fn of(json: bool, colour: bool) -> Self {
        if json {
            return Self::Json;
        }
        Self::Pretty {
            colour,
            summary: Box::default(),
        }
    }

    fn event(&mut self, event: &Event, writer: &mut impl Write) -> Result<()> {
        match self {
            Self::Json => json_line(event, writer),
            Self::Pretty { colour, summary } => {
                summary.add(event);
                pretty::line(event, *colour, writer)?;
                match event {
                    Event::End(end) => summary.table(end, writer),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Where events go.
pub enum Output<W: Write> {
    /// Lines, to a writer that may block: of a recording, which waits.
    Lines(Format, W),
    /// Lines, to a reader that is not waited for: of a live session.
    Queued(Box<Queued>),
    /// A page or a picture, at the end.
    Report(Box<Report>),
    /// The live screen, which is drawn by whoever shares it.
    Screen(Rc<RefCell<Top>>),
}

impl<W: Write> Output<W> {
    pub fn json(writer: W) -> Self {
        Self::Lines(Format::of(true, false), writer)
    }

    pub fn text(writer: W) -> Self {
        Self::Lines(Format::of(false, false), writer)
    }

    /// Shows one event. Nothing is promised to be visible before [`Output::flush`].
    pub fn event(&mut self, event: &Event) -> Result<()> {
        match self {
            Self::Lines(format, writer) => format.event(event, writer)?,
            Self::Queued(queued) => queued.event(event)?,
            Self::Report(report) => report.event(event)?,
            Self::Screen(top) => top.borrow_mut().event(event),
        }
        Ok(())
    }

    pub fn flush(&mut self) -> Result<()> {
        match self {
            Self::Lines(_, writer) => writer.flush().context("cannot write"),
            Self::Queued(queued) => queued.flush(),
            Self::Report(_) | Self::Screen(_) => Ok(()),
        }
    }

    /// The lines to a reader that is not waited for, if that is what this is.
    pub fn queued(&mut self) -> Option<&mut Queued> {
        match self {
            Self::Queued(queued) => Some(queued),
            Self::Lines(..) | Self::Report(_) | Self::Screen(_) => None,
        }
    }
}

/// Opens what `--json` and `-o` ask for, for a recording: standard output if no file, in colour if
/// that is a terminal that wants it.
///
/// # Errors
/// If the file cannot be written to.
pub fn open(json: bool, path: Option<&Path>) -> Result<Output<Sink>> {
    let sink: Sink = match path {
        None => Box::new(io::stdout()),
        Some(path) => Box::new(create(path)?),
    };
    let writer: Sink = Box::new(BufWriter::with_capacity(1 << 16, sink));
    Ok(Output::Lines(
        Format::of(json, path.is_none() && wants_colour()),
        writer,
    ))
}

/// The same, for a live session.
///
/// # Errors
/// If the file cannot be written to.
pub fn open_live(json: bool, path: Option<&Path>) -> Result<Output<Sink>> {
    Ok(Output::Queued(Box::new(match path {
        None => queued_stdout(json)?,
        Some(path) => {
            let (format, name) = (Format::of(json, false), path.display().to_string());
            Queued::new(format, create(path)?, name)
        }
    })))
}

/// How long the reader of [`stdout_live`] may take for the last lines, once the command has to end.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// Text on standard output, of a live session.
///
/// # Errors
/// If the descriptor cannot be copied.
pub fn stdout_live() -> Result<Queued> {
    queued_stdout(false)
}

fn queued_stdout(json: bool) -> Result<Queued> {
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let format = Format::of(json, wants_colour());
    Ok(Queued::new(format, file, "standard output".to_owned()))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot write to {}", path.display()))
}

/// Whether standard output is a terminal that wants colour.
fn wants_colour() -> bool {
    io::stdout().is_terminal()
        && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// The command whose lines a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaOf {
    Trace,
    List,
    Explain,
    Audit,
    Doctor,
}

/// Prints the JSON Schema of the lines of a command.
pub fn schema(of: SchemaOf, writer: &mut impl Write) -> Result<()> {
    let schema = serde_json::to_string_pretty(&match of {
        SchemaOf::Trace => schemars::schema_for!(Event),
        SchemaOf::List => schemars::schema_for!(ListLine),
        SchemaOf::Explain => schemars::schema_for!(Explanation),
        SchemaOf::Audit => schemars::schema_for!(AuditLine),
        SchemaOf::Doctor => schemars::schema_for!(doctor::Report),
    })?;
    writeln!(writer, "{schema}").context("cannot write")
}

/// Text that came from a process or a path, made harmless: names are chosen by whoever runs
/// the process, and a terminal obeys control characters.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let harmless = text.chars().flat_map(|character| {
        let (plain, escaped) = if is_harmful(character) {
            (None, Some(character.escape_unicode()))
        } else {
            (Some(character), None)
        };
        plain.into_iter().chain(escaped.into_iter().flatten())
    });
    Cow::Owned(harmless.collect())
}

/// Control characters, and the format characters that reorder or hide text.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
pub mod tests;
