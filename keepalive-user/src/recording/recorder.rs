//! What a running trace writes: every record, and whatever the attribution knew by then.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Identity, Record};
use rustc_hash::FxHashMap;

use super::{Frame, Header, Writer};
use crate::attribution::CGROUPS;
use crate::event::{Finding, Lost, Missed, Process};

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

/// Owners remembered as written; beyond that everything is written anew.
const REMEMBERED: usize = 1 << 18;

/// A recording in the making.
pub struct Recorder {
    path: PathBuf,
    limits: Limits,
    header: Header,
    writer: Writer<File>,
    /// What the file says of each inode and cgroup so far.
    processes: FxHashMap<u64, Option<Arc<Process>>>,
    cgroups: FxHashMap<u64, Option<String>>,
    /// The second being counted, CLOCK_MONOTONIC, and its records.
    second: (u64, u64),
    dropped: u64,
}

impl Recorder {
    /// Begins a recording. What is in the way is not overwritten.
    ///
    /// # Errors
    /// If the file exists, or cannot be made.
    pub fn create(path: &Path, limits: Limits, header: Header) -> Result<Self> {
        let writer = begin(path, &limits, &header)?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            header,
            writer,
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
        let said = self.processes.get(&inode).and_then(Option::as_ref);
        if inode == 0 || said == process {
            return Ok(());
        }
        if self.processes.len() >= REMEMBERED {
            self.processes.clear();
        }
        self.processes.insert(inode, process.cloned());
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
        let said = self.cgroups.get(&id).and_then(Option::as_deref);
        if id == 0 || said == path {
            return Ok(());
        }
        // A replay remembers as many.
        if self.cgroups.len() >= CGROUPS {
            self.cgroups.clear();
        }
        self.cgroups.insert(id, path.map(str::to_owned));
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
        self.frame(&Frame::Finding(&serde_json::to_string(finding)?))
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
        written.with_context(|| cannot_write(&self.path))
    }

    fn flushed(&mut self) -> Result<()> {
        let flushed = self.writer.flush();
        flushed.with_context(|| cannot_write(&self.path))
    }

    /// FILE becomes FILE.1, FILE.1 becomes FILE.2, and so on; the last one goes.
    fn rotate(&mut self) -> Result<()> {
        self.frame(&Frame::Continued)?;
        self.flushed()?;
        let name = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (0..self.limits.files).rev() {
            let (from, to) = (name(number), name(number + 1));
            if !from.exists() {
                continue;
            }
            if number + 1 >= self.limits.files {
                fs::remove_file(&from)
                    .with_context(|| format!("cannot remove {}", from.display()))?;
            } else {
                fs::rename(&from, &to)
                    .with_context(|| format!("cannot rename {}", from.display()))?;
            }
        }
        self.header.sequence += 1;
        self.writer = begin(&self.path, &self.limits, &self.header)?;
        // Each file can be read alone.
        self.processes.clear();
        self.cgroups.clear();
        Ok(())
    }
}

fn begin(path: &Path, limits: &Limits, header: &Header) -> Result<Writer<File>> {
    // What is no file, such as a pipe, is there already.
    let special = fs::metadata(path).is_ok_and(|there| !there.is_file());
    let file = OpenOptions::new()
        .write(true)
        .create_new(!special)
        .open(path)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => anyhow::anyhow!(
                "{} exists and is not overwritten: remove it, or record to another file",
                path.display()
            ),
            _ => anyhow::Error::from(error).context(cannot_write(path)),
        })?;
    Writer::new(file, header, limits.compressed).with_context(|| cannot_write(path))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write to {}", path.display())
}
