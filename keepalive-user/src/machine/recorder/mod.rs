//! The files of a recording: foreign files are not overwritten, and full files are rotated.

mod opening;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

pub use self::opening::open_all;
use super::files::{self, Id};
use crate::core::recording::{Header, Limits, Recorder, Storage};

/// A requested recording.
#[derive(Clone, Debug)]
pub struct Destination {
    pub path: PathBuf,
    pub limits: Limits,
    /// Overwrite existing files.
    pub force: bool,
}

impl Destination {
    /// Checks that the recording can begin, so that a bad path fails before any program is attached.
    ///
    /// # Errors
    /// If the file, or one of those it will be rotated to, exists and `force` is not given, or is
    /// not a regular file; or if no file can be created there.
    pub fn check(&self) -> Result<()> {
        for name in self.names() {
            files::check_new(&name, self.force)?;
            ensure!(
                !files::is_locked(&name),
                "{} is being written by another keepalive: name another file",
                name.display()
            );
        }
        files::check_directory(&self.path)
    }

    /// Begins the recording.
    ///
    /// # Errors
    /// Those of [`Destination::check`].
    pub fn begin(&self, header: Header) -> Result<Recorder> {
        self.check()?;
        for name in self.names().skip(1) {
            // These are of an earlier recording, which is overwritten: with gaps it could not be replayed.
            if name.symlink_metadata().is_ok() {
                fs::remove_file(&name).with_context(|| files::cannot_write(&name))?;
            }
        }
        let rotated = Rotated {
            path: self.path.clone(),
            keep: self.limits.files as usize,
            force: self.force,
            made: VecDeque::new(),
            present: None,
        };
        Recorder::new(Box::new(rotated), self.limits, header)
    }

    /// The names that the recording will use.
    pub fn names(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.limits.size.map_or(1, |_| self.limits.files as usize);
        (0..files).map(|number| numbered(&self.path, number))
    }
}

/// FILE, FILE.1, FILE.2 and so on.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// Rotating files. FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on; the last one is removed. Only
/// files that this recording created are renamed or removed, and none replaces another file.
struct Rotated {
    path: PathBuf,
    /// Files to keep, the one being written included.
    keep: usize,
    /// Whether the first file may overwrite an existing one.
    force: bool,
    /// The files of this recording, FILE first, then FILE.1 and so on.
    made: VecDeque<Id>,
    /// The present one, to see whether it was deleted.
    present: Option<File>,
}

impl Storage for Rotated {
    fn begin(&mut self) -> Result<Box<dyn Write>> {
        let force = self.force && self.made.is_empty();
        for number in (0..self.made.len()).rev() {
            self.move_on(number)?;
        }
        let file = files::create(&self.path, files::PRIVATE, force)?;
        // [`Destination::check`] of other instances sees the lock. Some file systems have no locks.
        let _ = file.try_lock();
        self.made.push_front(Id::from(&file.metadata()?));
        self.made.truncate(self.keep);
        self.present = file.try_clone().ok();
        Ok(Box::new(file))
    }

    fn trouble(&self) -> Option<String> {
        let metadata = self.present.as_ref()?.metadata().ok()?;
        (metadata.nlink() == 0).then(|| {
            format!(
                "{} was deleted: what is recorded in it is lost when the trace ends",
                self.path.display()
            )
        })
    }

    fn failure(&self) -> String {
        files::cannot_write(&self.path)
    }
}

impl Rotated {
    /// Gives the file with this number the next one, or removes it if it is the last.
    fn move_on(&self, number: usize) -> Result<()> {
        let (from, to) = (
            numbered(&self.path, number),
            numbered(&self.path, number + 1),
        );
        match fs::symlink_metadata(&from) {
            // The file was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(there) if self.made.get(number) == Some(&Id::from(&there)) => {}
            _ => bail!(
                "{} is not the file that was recorded to: the recording cannot go on",
                from.display()
            ),
        }
        if number + 1 >= self.keep {
            fs::remove_file(&from).with_context(|| format!("cannot remove {}", from.display()))
        } else {
            files::rename_new(&from, &to)
                .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
        }
    }
}

#[cfg(test)]
pub mod tests;
