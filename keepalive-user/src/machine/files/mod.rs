//! # Files
//!
//! Opens the files that the command line names, often as root and often in a directory that other users
//! may write to. Files are created anew: no symbolic link is followed, and no existing file is overwritten
//! without --force. Only files and pipes are read, up to a size limit.
//!
//! Only the last component of a path is protected: symbolic links in its directories are followed.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File, FileType, Metadata, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};
use rustix::{
    fs::{CWD, OFlags, RenameFlags, renameat_with},
    io::Errno,
};

use crate::core::{
    exit::{Exit, Refusal},
    recording,
};

/// Only for its owner: recordings contain addresses and processes.
pub const PRIVATE: u32 = 0o600;
/// Restricted by the umask.
pub const ORDINARY: u32 = 0o666;

/// The identity of a file, independent of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for Id {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Id {
    /// The identity of the regular file at a path; `None` for anything else.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = if path == Path::new("-") {
            fs::metadata("/proc/self/fd/0")
        } else {
            fs::metadata(path)
        };
        let metadata = metadata.ok().filter(Metadata::is_file);
        metadata.as_ref().map(Self::from)
    }
}

/// A file type, in a sentence.
struct Kind(FileType);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.0;
        f.write_str(if kind.is_dir() {
            "a directory"
        } else if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else if kind.is_block_device() || kind.is_char_device() {
            "a device"
        } else {
            "a regular file"
        })
    }
}

/// Checks that a file may be created at a path. Anything there but a regular file is an error with a
/// remedy, and so is a regular file without `force`.
///
/// # Errors
/// Names the type of the existing file.
pub fn check_new(path: &Path, force: bool) -> Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| cannot_write(path)),
    };
    let name = path.display();
    if !there.is_file() {
        anyhow::bail!(
            "{name} is {}, and only a regular file is written to: name a file that does not exist",
            Kind(there.file_type())
        );
    }
    if !force {
        anyhow::bail!(
            "{name} exists and is not overwritten: name another file, remove it, or give --force"
        );
    }
    Ok(())
}

/// Whether another process holds a lock on this regular file; false if that cannot be determined.
pub fn is_locked(path: &Path) -> bool {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK))
        .open(path);
    opened.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Converts the flags to the type that std takes.
fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Creates a file that does not exist.
///
/// # Errors
/// If the path exists, including as a dangling link; or if the directory forbids it.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NOCTTY))
        .open(path)
}

/// As [`check_new`] and then [`create_new`]; with `force` the new file replaces an existing regular file,
/// whose other links keep it.
///
/// # Errors
/// Those of both.
pub fn create(path: &Path, mode: u32, force: bool) -> Result<File> {
    check_new(path, force)?;
    let made = create_new(path, mode).or_else(|error| {
        if force && error.kind() == io::ErrorKind::AlreadyExists {
            fs::remove_file(path)?;
            return create_new(path, mode);
        }
        Err(error)
    });
    made.with_context(|| cannot_write(path))
}

/// Checks that a file can be created at this path: creates one beside it, and removes it.
///
/// # Errors
/// If not.
pub fn check_directory(path: &Path) -> Result<()> {
    let beside = beside(path);
    let made = create_new(&beside, PRIVATE).and_then(|_| fs::remove_file(&beside));
    made.with_context(|| cannot_write(path))
}

/// A unique name in the same directory.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    name.push(format!(".{}-{now}.part", std::process::id()));
    name.into()
}

/// Renames a file to a name that does not exist.
///
/// # Errors
/// `AlreadyExists` if the name exists, whatever its type.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems that do not support RENAME_NOREPLACE (NFS) support links.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a regular file or a pipe for reading.
///
/// # Errors
/// If it is anything else: a device may be endless, and opening one may have side effects.
pub fn open(path: &Path) -> Result<File> {
    let check = |metadata: Metadata| -> Result<()> {
        let kind = metadata.file_type();
        anyhow::ensure!(
            kind.is_file() || kind.is_fifo(),
            "it is {}, not a file",
            Kind(kind)
        );
        Ok(())
    };
    let opened = || -> Result<File> {
        check(fs::metadata(path)?)?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags(OFlags::NOCTTY))
            .open(path)?;
        // The path may refer to another file since the check.
        check(file.metadata()?)?;
        Ok(file)
    };
    opened().with_context(|| format!("cannot read {}", path.display()))
}

/// The bytes of a file, if they are no more than `most`.
///
/// # Errors
/// If the file has more, and those of [`open`].
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(
        bytes.len() as u64 <= most,
        "cannot read {}: it has more than {most} bytes",
        path.display()
    );
    Ok(bytes)
}

/// The text of a file in /proc or /sys, up to a size limit.
pub fn read_kernel(path: &str) -> io::Result<String> {
    const MOST: u64 = 1 << 26;
    let mut text = String::new();
    File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(text)
}

/// `uname -r`.
pub fn kernel_release() -> String {
    kernel_word("osrelease").unwrap_or_else(|| "unknown".to_owned())
}

/// One of the words of `uname`.
pub fn kernel_word(name: &str) -> Option<String> {
    let word = read_kernel(&format!("/proc/sys/kernel/{name}")).ok()?;
    Some(word.trim_end().to_owned())
}

/// Refuses an output that is the same file as one of the others, also under another name.
///
/// # Errors
/// If it is.
pub fn refuse_same(output: &Path, others: &[PathBuf]) -> Result<()> {
    let (id, place) = (Id::of(output), place(output));
    let is_same = |other: &&PathBuf| {
        (id.is_some() && Id::of(other) == id) || (place.is_some() && self::place(other) == place)
    };
    others.iter().find(is_same).map_or(Ok(()), |other| {
        let message = format!(
            "{} is the same file as {}: write to another file",
            output.display(),
            other.display()
        );
        Err(Refusal::new(Exit::Usage, message).into())
    })
}

/// The directory and the name of a file, which may not exist yet.
fn place(path: &Path) -> Option<(Id, &OsStr)> {
    let directory = path.parent()?;
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let metadata = fs::metadata(directory).ok()?;
    Some((Id::from(&metadata), path.file_name()?))
}

/// Opens a file whose contents are replaced.
pub fn overwrite(path: &Path) -> Result<File> {
    File::create(path).with_context(|| cannot_write(path))
}

/// Opens a file for writing, and leaves its contents.
pub fn open_to_write(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    options.open(path).with_context(|| cannot_write(path))
}

pub fn cannot_write(path: &Path) -> String {
    format!("cannot write to {}", path.display())
}

/// Checks the output file of text or JSON: as with other tools, an existing plain file is overwritten, but
/// not one of `others`, and not a recording.
///
/// # Errors
/// If it is one of these.
pub fn check_output(output: &Path, others: &[PathBuf]) -> Result<()> {
    refuse_same(output, others)?;
    let mut beginning = [0; 8];
    let is_recording = Id::of(output).is_some()
        && open(output).is_ok_and(|mut file| file.read_exact(&mut beginning).is_ok())
        && recording::is_recording(&beginning);
    if is_recording {
        anyhow::bail!(
            "{} is a recording and is not overwritten: name another file, or remove it",
            output.display()
        );
    }
    Ok(())
}

/// A file that is written once, at the end, and either exists completely or not at all.
pub struct NewFile {
    path: PathBuf,
    /// Whether an existing file is overwritten.
    force: bool,
}

impl NewFile {
    /// Checks in advance that the file can be written.
    ///
    /// # Errors
    /// If the path exists and must not be overwritten, or the file cannot be written.
    pub fn plan(path: &Path, force: bool) -> Result<Self> {
        check_new(path, force)?;
        check_output(path, &[])?;
        check_directory(path)?;
        Ok(Self {
            path: path.to_owned(),
            force,
        })
    }

    /// Writes a file beside it, and renames that when it is complete.
    ///
    /// # Errors
    /// If it cannot be written, or the path was created meanwhile.
    pub fn write(&self, contents: &[u8]) -> Result<()> {
        let path = &self.path;
        let beside = beside(path);
        let written = create_new(&beside, ORDINARY).and_then(|mut file| file.write_all(contents));
        if let Err(error) = written {
            // The file may not exist.
            let _ = fs::remove_file(&beside);
            return Err(error).with_context(|| cannot_write(path));
        }
        // A link that was created meanwhile is replaced, not followed.
        let placed = match self.force {
            true => fs::rename(&beside, path),
            false => rename_new(&beside, path),
        };
        placed.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return anyhow::anyhow!(
                    "{} was created meanwhile and is not overwritten: the report is in {}",
                    path.display(),
                    beside.display()
                );
            }
            anyhow::Error::from(error).context(cannot_write(path))
        })
    }
}

#[cfg(test)]
mod tests;
