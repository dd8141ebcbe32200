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
mod report;
mod summary;
pub mod top;
pub mod words;

use std::{
    borrow::Cow,
    cell::RefCell,
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::Path,
    rc::Rc,
};

use anyhow::{Context, Result};

use self::json::json_line;
pub use self::{
    report::Report,
    summary::{Counts, Summary},
    top::Top,
};
use crate::{
    doctor,
    event::{AuditLine, Event, Explanation, ListLine},
    pipeline::Sink,
};

/// Where events go.
pub enum Output<W: Write> {
    /// One object per line.
    Json(W),
    /// One line a person can read, and a table at the end.
    Pretty {
        writer: W,
        colour: bool,
        summary: Box<Summary>,
    },
    /// A page or a picture, at the end.
    Report(Box<Report>),
    /// The live screen, which is drawn by whoever shares it.
    Screen(Rc<RefCell<Top>>),
}

impl<W: Write> Output<W> {
    pub fn json(writer: W) -> Self {
        Self::Json(writer)
    }

    pub fn pretty(colour: bool, writer: W) -> Self {
        Self::Pretty {
            writer,
            colour,
            summary: Box::default(),
        }
    }

    /// Shows one event. Nothing is promised to be visible before [`Output::flush`].
    pub fn event(&mut self, event: &Event) -> Result<()> {
        match self {
            Self::Json(writer) => json_line(event, writer)?,
            Self::Pretty {
                writer,
                colour,
                summary,
            } => {
                summary.add(event);
                pretty::line(event, *colour, writer)?;
                if let Event::End(end) = event {
                    summary.table(end, writer)?;
                }
            }
            Self::Report(report) => report.event(event)?,
            Self::Screen(top) => top.borrow_mut().event(event),
        }
        Ok(())
    }

    pub fn flush(&mut self) -> Result<()> {
        match self {
            Self::Json(writer) | Self::Pretty { writer, .. } => {
                writer.flush().context("cannot write")
            }
            Self::Report(_) | Self::Screen(_) => Ok(()),
        }
    }
}

/// Opens what `--json` and `-o` ask for: standard output if no file, in colour if that is a
/// terminal that wants it.
///
/// # Errors
/// If the file cannot be written to.
pub fn open(json: bool, path: Option<&Path>) -> Result<Output<Sink>> {
    let sink: Sink = match path {
        None => Box::new(io::stdout()),
        Some(path) => Box::new(
            File::create(path).with_context(|| format!("cannot write to {}", path.display()))?,
        ),
    };
    let writer: Sink = Box::new(BufWriter::with_capacity(1 << 16, sink));
    let colour = path.is_none()
        && io::stdout().is_terminal()
        && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    Ok(if json {
        Output::json(writer)
    } else {
        Output::pretty(colour, writer)
    })
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
