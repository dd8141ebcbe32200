//! A report: the whole trace on one page that a person would rather look at than read, or in one
//! picture. Written once, at the end; until then events are folded, and memory is bounded.

mod charts;
mod histogram;
mod mark;
mod model;
mod news;
mod page;
mod phrase;
mod picture;
mod story;
mod svg;
mod theme;
mod time;
mod timeline;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::tz::TimeZone;

use self::{model::Model, story::Story};
use crate::{
    cli::Target,
    event::{Event, Socket},
    exit::{Exit, Refusal},
};

/// What a file's suffix asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Page,
    Svg,
    Png,
}

/// A report in the making.
pub struct Report {
    path: PathBuf,
    format: Format,
    /// Only this socket, or it first.
    socket: Option<Target>,
    model: Model,
}

impl Report {
    /// Begins a report that is written to this file.
    ///
    /// # Errors
    /// If the suffix says nothing, or the file cannot be written.
    pub fn open(path: &Path, socket: Option<Target>) -> Result<Self> {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        let format = match suffix {
            Some("html" | "htm") => Format::Page,
            Some("svg") => Format::Svg,
            Some("png") => Format::Png,
            _ => {
                let message = format!(
                    "{}: a report is a page or a picture: name it .html, .svg or .png",
                    path.display()
                );
                return Err(Refusal::new(Exit::Usage, message).into());
            }
        };
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            anyhow::bail!("{} is no file: nothing is written there", path.display());
        }
        let report = Self {
            // Where a link leads: the link stays.
            path: fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
            format,
            socket,
            model: Model::new(TimeZone::system()),
        };
        // Now, so that a bad path fails before the work is done; nothing stays if we are killed.
        report.replace(&[], false)?;
        Ok(report)
    }

    /// Folds an event; the last one writes the report.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        self.model.add(event);
        match event {
            Event::End(_) => {
                let contents = self.contents()?;
                self.replace(&contents, true)
            }
            _ => Ok(()),
        }
    }

    fn contents(&mut self) -> Result<Vec<u8>> {
        let model = &mut self.model;
        model.finish();
        let worst_first = model.worst_first();
        let wanted = self.socket.as_ref();
        let socket = wanted
            .map(|target| only(&worst_first, target))
            .transpose()?;
        let picture = || match socket {
            Some(story) => picture::one(model, story),
            None => picture::overview(model, &worst_first),
        };
        Ok(match self.format {
            Format::Page => {
                let open = socket.map(|story| story.socket.id);
                page::page(model, &worst_first, open)?.into_bytes()
            }
            Format::Svg => picture().svg(true).into_bytes(),
            Format::Png => picture::png(&picture())?,
        })
    }

    /// Writes beside the file, and puts it in its place when it is whole.
    fn replace(&self, contents: &[u8], keep: bool) -> Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}.part", std::process::id()));
        let beside = PathBuf::from(name);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&beside)?;
            file.write_all(contents)?;
            match keep {
                true => fs::rename(&beside, &self.path),
                false => fs::remove_file(&beside),
            }
        };
        let written = write();
        if written.is_err() {
            // There may be nothing to remove.
            let _ = fs::remove_file(&beside);
        }
        written.with_context(|| format!("cannot write to {}", self.path.display()))
    }
}

/// The one socket that is meant.
fn only<'a>(stories: &[&'a Story], target: &Target) -> Result<&'a Story> {
    let is_meant = |story: &&&Story| match target {
        Target::Pid(pid) => story.pid == Some(*pid),
        target => target.names(&story.socket),
    };
    let meant: Vec<&&Story> = stories.iter().filter(is_meant).collect();
    let message = match meant[..] {
        [story] => return Ok(story),
        [] => "nothing was seen of such a socket".to_owned(),
        _ => {
            let choices: Vec<String> = meant.iter().take(10).map(|it| choice(&it.socket)).collect();
            let more = meant.len().saturating_sub(choices.len());
            let more = if more > 0 {
                format!("\n  and {more} more")
            } else {
                String::new()
            };
            format!(
                "{} such sockets were seen; name one:\n  {}{more}",
                meant.len(),
                choices.join("\n  ")
            )
        }
    };
    Err(Refusal::new(Exit::Usage, message).into())
}

fn choice(socket: &Socket) -> String {
    let cookie = socket.cookie.map(|cookie| format!("  sk:{cookie}"));
    format!(
        "{}-{}{}",
        socket.local,
        socket.peer,
        cookie.unwrap_or_default()
    )
}

#[cfg(test)]
pub(super) mod tests;
