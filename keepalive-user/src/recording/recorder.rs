//! What a running trace writes: every record, and whatever the attribution knew by then.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use keepalive_ebpf::{Identity, Record};
use rustc_hash::FxHashMap;

use super::{Frame, Header, Writer, frame::FINDING_MAX};
use crate::{
    attribution::CGROUPS,
    event::{Finding, Lost, Missed, Process},
    files::{self, Id},
};

/// How much a recording may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Start a new file after so many bytes.
    pub size: Option<u64>,
    /// Files to keep, the one being written included.
    pub files: u32,
    /// Records a second; what comes beyond them is counted and left out.
    pub rate: Option<u64>,
    pub compressed: bool,
}

/// Owners remembered as written; beyond that everything is written anew. A replay remembers as many.
const REMEMBERED: usize = 1 << 18;

/// A recording in the making.
pub struct Recorder {
    path: PathBuf,
    limits: Limits,
    header: Header,
    writer: Writer<File>,
    /// The files of this recording, FILE first, then FILE.1 and so on.
    made: VecDeque<Id>,
    /// What the file says of each inode and cgroup so far.
    processes: FxHashMap<u64, Arc<Process>>,
    cgroups: FxHashMap<u64, String>,
    /// The second being counted, CLOCK_MONOTONIC, and its records.
    second: (u64, u64),
    dropped: u64,
}

impl Recorder {
    /// Whether a recording could begin: so that a bad path fails before anything is attached.
    ///
    /// # Errors
    /// If the file, or one of those it will be rotated to, exists and `force` is not given, or is
    /// no regular file; or if no file can be made there.
    pub fn check(path: &Path, limits: &Limits, force: bool) -> Result<()> {
        for name in names(path, limits) {
            files::check_new(&name, force)?;
            ensure!(
                !files::is_locked(&name),
                "{} is being written by another keepalive: name another file",
                name.display()
            );
        }
        files::check_directory(path)
    }

    /// Begins a recording. What is in the way is not overwritten without `force`.
    ///
    /// # Errors
    /// Those of [`Recorder::check`].
    pub fn create(path: &Path, limits: Limits, force: bool, header: Header) -> Result<Self> {
        Self::check(path, &limits, force)?;
        for name in names(path, &limits).skip(1) {
            // Of an earlier recording, and to be overwritten: one with gaps could not be replayed.
            if name.symlink_metadata().is_ok() {
                fs::remove_file(&name).with_context(|| files::cannot_write(&name))?;
            }
        }
        let (writer, id) = begin(path, &limits, &header, force)?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            header,
            writer,
            made: VecDeque::from([id]),
            processes: FxHashMap::default(),
            cgroups: FxHashMap::default(),
            second: (0, 0),
            dropped: 0,
        })
    }

    pub fn seed(&mut self, id: &Identity, time: u64) -> Result<()> {
        self.frame(&Frame::Seed { id: *id, time })
    }

    /// Whether this record is to be written, by the rate.
    pub fn admits(&mut self, record: &Record) -> bool {
        let Some(rate) = self.limits.rate else {
            return true;
        };
        let second = record.after.time / 1_000_000_000;
        if second != self.second.0 {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        let admitted = self.second.1 <= rate;
        self.dropped += u64::from(!admitted);
        admitted
    }

    pub fn record(&mut self, record: &Record) -> Result<()> {
        self.frame(&Frame::Record(record))
    }

    /// Whose a socket is now: written if the file says otherwise.
    pub fn process(&mut self, inode: u64, process: Option<&Arc<Process>>) -> Result<()> {
        let known = &mut self.processes;
        if inode == 0 || known.get(&inode) == process {
            return Ok(());
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        match process {
            Some(process) => known.insert(inode, Arc::clone(process)),
            None => known.remove(&inode),
        };
        self.frame(&Frame::Process {
            inode,
            process: process.map(|process| (process.pid, process.comm.as_str())),
        })
    }

    /// The socket has ended, which is when a replay forgets its owner too.
    pub fn forget(&mut self, inode: u64) {
        self.processes.remove(&inode);
    }

    /// The path of a cgroup now: written if the file says otherwise.
    pub fn cgroup(&mut self, id: u64, path: Option<&str>) -> Result<()> {
        let known = &mut self.cgroups;
        if id == 0 || known.get(&id).map(String::as_str) == path {
            return Ok(());
        }
        // A replay remembers as many.
        if known.len() >= CGROUPS {
            known.clear();
        }
        match path {
            Some(path) => known.insert(id, path.to_owned()),
            None => known.remove(&id),
        };
        self.frame(&Frame::Cgroup { id, path })
    }

    pub fn lost(&mut self, lost: &Lost) -> Result<()> {
        self.frame(&Frame::Lost {
            place: lost.place,
            count: lost.count,
            probes: lost.probes,
            time: lost.when.monotonic_ns,
        })
    }

    pub fn missed(&mut self, missed: &Missed) -> Result<()> {
        self.frame(&Frame::Missed {
            place: missed.place,
            count: missed.count,
            since: missed.since.monotonic_ns,
            time: missed.when.monotonic_ns,
        })
    }

    pub fn finding(&mut self, finding: &Finding) -> Result<()> {
        let json = serde_json::to_string(finding)?;
        if json.len() > FINDING_MAX {
            self.dropped += 1;
            return Ok(());
        }
        self.frame(&Frame::Finding(&json))
    }

    /// Records left out since this was last asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Writes what has gathered, and goes on in a new file if this one is full.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed()?;
        let is_full = self
            .limits
            .size
            .is_some_and(|size| self.writer.length() >= size);
        if is_full { self.rotate() } else { Ok(()) }
    }

    /// The end of the trace.
    pub fn finish(&mut self, time: u64) -> Result<()> {
        self.frame(&Frame::End { time })?;
        self.flushed()
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<()> {
        let written = self.writer.frame(frame);
        written.with_context(|| files::cannot_write(&self.path))
    }

    fn flushed(&mut self) -> Result<()> {
        let flushed = self.writer.flush();
        flushed.with_context(|| files::cannot_write(&self.path))
    }

    /// FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on; the last one goes. Only files that this
    /// recording made are moved or removed, and none is put in the place of another.
    fn rotate(&mut self) -> Result<()> {
        self.frame(&Frame::Continued)?;
        self.flushed()?;
        for number in (0..self.made.len()).rev() {
            let (from, to) = (self.name(number), self.name(number + 1));
            match fs::symlink_metadata(&from) {
                // Removed by somebody: one less to keep.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(there) if self.made.get(number) == Some(&Id::from(&there)) => {}
                _ => bail!(
                    "{} is not the file that was recorded to: the recording cannot go on",
                    from.display()
                ),
            }
            if number + 1 >= self.limits.files as usize {
                fs::remove_file(&from)
                    .with_context(|| format!("cannot remove {}", from.display()))?;
            } else {
                files::rename_new(&from, &to).with_context(|| {
                    format!("cannot rename {} to {}", from.display(), to.display())
                })?;
            }
        }
        self.header.sequence += 1;
        let (writer, id) = begin(&self.path, &self.limits, &self.header, false)?;
        self.writer = writer;
        self.made.push_front(id);
        self.made.truncate(self.limits.files as usize);
        // Each file can be read alone.
        self.forget_all();
        Ok(())
    }

    fn name(&self, number: usize) -> PathBuf {
        numbered(&self.path, number)
    }

    fn forget_all(&mut self) {
        self.processes.clear();
        self.cgroups.clear();
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

/// The names that a recording will use.
fn names(path: &Path, limits: &Limits) -> impl Iterator<Item = PathBuf> {
    let files = limits.size.map_or(1, |_| limits.files as usize);
    (0..files).map(|number| numbered(path, number))
}

fn begin(path: &Path, limits: &Limits, header: &Header, force: bool) -> Result<(Writer<File>, Id)> {
    let file = files::create(path, files::PRIVATE, force)?;
    // Seen by [`Recorder::check`] of other instances. Some file systems have no locks.
    let _ = file.try_lock();
    let id = Id::from(&file.metadata()?);
    let writer = Writer::new(file, header, limits.compressed);
    Ok((writer.with_context(|| files::cannot_write(path))?, id))
}
