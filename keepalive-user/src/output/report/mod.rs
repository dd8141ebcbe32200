//! A report: the whole trace as one page or one picture. It is written once, at the end; until then
//! events are folded into bounded memory.

mod charts;
mod data;
mod headline;
mod histogram;
mod lane;
mod mark;
mod model;
mod outcome;
mod page;
mod phrase;
mod picture;
mod story;
mod svg;
mod theme;
mod time;

use std::path::Path;

use anyhow::Result;
use jiff::tz::TimeZone;

use self::{model::Model, story::Story};
use crate::core::{
    event::{Event, Socket},
    exit::{Exit, Refusal},
    pipeline::Output,
    target::Target,
};

/// The format of a report, by the suffix of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Page,
    Svg,
}

/// Writes a finished report to its file.
pub type Save = Box<dyn Fn(&[u8]) -> Result<()>>;

/// An unfinished report.
pub struct Report {
    save: Save,
    format: Format,
    /// A picture shows only this socket; a page opens it first.
    socket: Option<Target>,
    model: Model,
}

impl Report {
    /// The format for the suffix of a file.
    ///
    /// # Errors
    /// If the suffix is unknown.
    pub fn format(path: &Path) -> Result<Format> {
        match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("html" | "htm") => Ok(Format::Page),
            Some("svg") => Ok(Format::Svg),
            _ => {
                let message = format!(
                    "{}: unknown format of a report: the name must end in .html or .svg",
                    path.display()
                );
                Err(Refusal::new(Exit::Usage, message).into())
            }
        }
    }

    /// Begins a report, which is saved at the end.
    pub fn begin(format: Format, socket: Option<Target>, zone: TimeZone, save: Save) -> Self {
        Self {
            save,
            format,
            socket,
            model: Model::new(zone),
        }
    }

    /// Every picture that this report could have been: of all sockets, and of the worst one.
    pub fn pictures(&self) -> impl Iterator<Item = String> {
        let worst_first = self.model.worst_first();
        let all = picture::overview(&self.model, &worst_first).svg();
        let one = worst_first
            .first()
            .map(|story| picture::one(&self.model, story).svg());
        [all].into_iter().chain(one)
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
                let open = socket.map(|story| story.history.socket.id);
                page::page(model, &worst_first, open)?.into_bytes()
            }
            Format::Svg => picture().svg().into_bytes(),
        })
    }
}

impl Output for Report {
    /// Folds an event; the last one writes the report.
    fn event(&mut self, event: &Event) -> Result<()> {
        self.model.add(event);
        if !matches!(event, Event::End(_)) {
            return Ok(());
        }
        let contents = self.contents()?;
        (self.save)(&contents)
    }
}

/// The only socket that matches the target.
fn only<'a>(stories: &[&'a Story], target: &Target) -> Result<&'a Story> {
    let is_meant = |story: &&&Story| match target {
        Target::Pid(pid) => {
            let process = story.history.process.as_ref();
            process.is_some_and(|process| process.pid == *pid)
        }
        Target::Port(_) | Target::Endpoint(_) | Target::Pair(..) | Target::Cookie(_) => {
            target.names(&story.history.socket)
        }
    };
    let meant: Vec<&&Story> = stories.iter().filter(is_meant).collect();
    let message = match meant[..] {
        [story] => return Ok(story),
        [] => "no such socket was recorded".to_owned(),
        _ => {
            let choices: Vec<String> = meant
                .iter()
                .take(10)
                .map(|it| choice(&it.history.socket))
                .collect();
            let more = meant.len().saturating_sub(choices.len());
            let more = if more > 0 {
                format!("; and {more} more")
            } else {
                String::new()
            };
            format!(
                "{} such sockets were recorded; name one: {}{more}",
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
