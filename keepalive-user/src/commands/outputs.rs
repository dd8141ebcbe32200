//! The outputs that several commands open.

use std::path::Path;

use anyhow::Result;
use jiff::tz::TimeZone;

use crate::{
    core::{pipeline::Output, target::Target},
    machine::{files::NewFile, queue::Queued, terminal},
    output::{Format, Report},
};

/// Lines of a live session: on standard output, in colour if that is a terminal that wants it, or in
/// a file.
///
/// # Errors
/// If the file cannot be written to.
pub fn live(json: bool, path: Option<&Path>) -> Result<Box<dyn Output>> {
    let colour = path.is_none() && terminal::wants_colour();
    let format = Box::new(Format::of(json, colour, TimeZone::system()));
    Ok(Box::new(match path {
        None => Queued::stdout(format)?,
        Some(path) => Queued::file(format, path)?,
    }))
}

/// A report that is written to this file at the end.
///
/// # Errors
/// If its suffix is not a known format, or the file cannot be written.
pub fn report(path: &Path, socket: Option<Target>, force: bool) -> Result<Box<dyn Output>> {
    // Checked now, so that a bad path fails before the work is done. If the process is killed, no file remains.
    let format = Report::format(path)?;
    let file = NewFile::plan(path, force)?;
    let save = Box::new(move |contents: &[u8]| file.write(contents));
    Ok(Box::new(Report::begin(
        format,
        socket,
        TimeZone::system(),
        save,
    )))
}
