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
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::tz::TimeZone;

use self::{model::Model, story::Story};
use crate::{
    cli::Target,
    event::{Event, Socket},
    exit::{Exit, Refusal},
    files, recording,
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
    /// `None` = made, and not written.
    path: Option<PathBuf>,
    /// Whether a file that is there is overwritten.
    force: bool,
    format: Format,
    /// Only this socket, or it first.
    socket: Option<Target>,
    model: Model,
}

impl Report {
    /// Begins a report that is written to this file.
    ///
    /// # Errors
    /// If the suffix says nothing, something is there that is not to be overwritten, or the file
    /// cannot be written.
    pub fn open(path: &Path, socket: Option<Target>, force: bool) -> Result<Self> {
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
        // Now, so that a bad path fails before the work is done; nothing stays if we are killed.
        files::check_new(path, force)?;
        recording::check_output(path, &[])?;
        files::check_directory(path)?;
        Ok(Self {
            path: Some(path.to_owned()),
            force,
            format,
            socket,
            model: Model::new(TimeZone::system()),
        })
    }

    /// A report that is made in all formats that are text, and written nowhere: for fuzzing.
    pub fn rehearsal() -> Self {
        Self {
            path: None,
            force: false,
            format: Format::Page,
            socket: None,
            model: Model::new(TimeZone::UTC),
        }
    }

    /// Folds an event; the last one writes the report.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        self.model.add(event);
        match event {
            Event::End(_) => {
                let contents = self.contents()?;
                match &self.path {
                    Some(path) => self.write(path, &contents),
                    None => self.rehearse(&contents),
                }
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
    fn write(&self, path: &Path, contents: &[u8]) -> Result<()> {
        let beside = files::beside(path);
        let written = files::create_new(&beside, files::ORDINARY)
            .and_then(|mut file| file.write_all(contents));
        if let Err(error) = written {
            // There may be nothing to remove.
            let _ = fs::remove_file(&beside);
            return Err(error).with_context(|| files::cannot_write(path));
        }
        // A link that is there by now is replaced, not followed.
        let placed = match self.force {
            true => fs::rename(&beside, path),
            false => files::rename_new(&beside, path),
        };
        placed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => anyhow::anyhow!(
                "{} exists by now and is not overwritten: the report is in {}",
                path.display(),
                beside.display()
            ),
            _ => anyhow::Error::from(error).context(files::cannot_write(path)),
        })
    }
}

impl Report {
    /// Nothing that a recording says ends the page's script, or begins markup in a picture.
    fn rehearse(&mut self, page: &[u8]) -> Result<()> {
        let count = |text: &[u8], tag: &str| {
            let found = text.windows(tag.len()).filter(|it| *it == tag.as_bytes());
            found.count()
        };
        assert_eq!(count(page, "</script>"), 2);
        self.format = Format::Svg;
        let picture = self.contents()?;
        let worst = self.model.worst_first();
        let one = worst
            .first()
            .map(|story| picture::one(&self.model, story).svg(true));
        for svg in [picture, one.unwrap_or_default().into_bytes()] {
            assert_eq!(count(&svg, "<script"), 0);
            assert!(count(&svg, "<svg") <= 1);
        }
        Ok(())
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
                format!("; and {more} more")
            } else {
                String::new()
            };
            format!(
                "{} such sockets were seen; name one: {}{more}",
                meant.len(),
                choices.join("; ")
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
