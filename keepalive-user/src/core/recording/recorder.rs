//! Writes the recording of a running trace: every record, and the owners resolved so far.

use std::{collections::VecDeque, io::Write, sync::Arc};

use anyhow::{Context, Result};
use keepalive_ebpf::{Identity, Record};
use rustc_hash::FxHashMap;

use super::{Frame, Header, HostFrame, Writer, bytes::FINDING_MAX};
use crate::core::{
    clock::{Offset, REMEMBERED},
    event::{Finding, Lost, Missed, Process},
    owners::{CGROUPS, SOCKETS},
};

/// Size limits of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Start a new file after this many bytes.
    pub size: Option<u64>,
    /// Files to keep, including the one being written.
    pub files: u32,
    /// Records per second; further records are counted and left out.
    pub rate: Option<u64>,
    pub compressed: bool,
}

/// The destination of the files of a recording, which are written one after the other.
pub trait Storage {
    /// Begins the next file, after renaming the previous ones.
    ///
    /// # Errors
    /// If it cannot be written.
    fn begin(&mut self) -> Result<Box<dyn Write>>;

    /// What is wrong with the present file, if something is: it was deleted.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// What failed, for the context of an error: "cannot write to FILE".
    fn failure(&self) -> String;
}

/// A recording being written. Owners are written once: once there are more owners or cgroups than a
/// replay remembers, all of them are written again.
///
/// It ends at its first failure, which is reported once: what is behind a torn block cannot be read, and
/// nothing is expected behind [`Frame::Continued`]. Later frames are dropped.
pub struct Recorder {
    storage: Box<dyn Storage>,
    limits: Limits,
    header: Header,
    /// The present file; `None` after a failure.
    writer: Option<Writer<Box<dyn Write>>>,
    /// The owners and cgroup paths written to the file so far.
    processes: FxHashMap<u64, Arc<Process>>,
    cgroups: FxHashMap<u64, String>,
    /// The offsets of the wall clock since the header's, latest last: as many as a replay remembers.
    clocks: VecDeque<Offset>,
    /// The current second, CLOCK_MONOTONIC, and the number of its records.
    second: (u64, u64),
    dropped: u64,
    /// Whether the trouble of the present file was returned.
    is_reported: bool,
}

impl Recorder {
    /// Begins a recording.
    ///
    /// # Errors
    /// If its first file cannot be written.
    pub fn new(mut storage: Box<dyn Storage>, limits: Limits, header: Header) -> Result<Self> {
        let writer = begin(&mut *storage, &limits, &header)?;
        Ok(Self {
            storage,
            limits,
            header,
            writer: Some(writer),
            processes: FxHashMap::default(),
            cgroups: FxHashMap::default(),
            is_reported: false,
            clocks: VecDeque::new(),
            second: (0, 0),
            dropped: 0,
        })
    }

    pub fn seed(&mut self, id: &Identity, time: u64) -> Result<()> {
        self.frame(&Frame::Seed { id: *id, time })
    }

    /// Whether the rate limit admits this record.
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

    /// The present owner of a socket: written if it differs from the file.
    pub fn process(&mut self, inode: u64, process: Option<&Arc<Process>>) -> Result<()> {
        let known = &mut self.processes;
        if inode == 0 || known.get(&inode) == process {
            return Ok(());
        }
        if known.len() >= SOCKETS {
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

    /// The socket has ended. A replay drops its owner at the same time, unless the rate limit left the end
    /// out: then it is written.
    pub fn forget(&mut self, inode: u64) -> Result<()> {
        if self.limits.rate.is_some() {
            return self.process(inode, None);
        }
        self.processes.remove(&inode);
        Ok(())
    }

    /// The present path of a cgroup: written if it differs from the file.
    pub fn cgroup(&mut self, id: u64, path: Option<&str>) -> Result<()> {
        let known = &mut self.cgroups;
        if id == 0 || known.get(&id).map(String::as_str) == path {
            return Ok(());
        }
        // A replay remembers the same number.
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

    pub fn host(&mut self, frame: HostFrame) -> Result<()> {
        if let HostFrame::Clock(offset) = frame {
            if self.clocks.len() >= REMEMBERED {
                self.clocks.pop_front();
            }
            self.clocks.push_back(offset);
        }
        self.frame(&Frame::Host(frame))
    }

    pub fn finding(&mut self, finding: &Finding) -> Result<()> {
        let json = serde_json::to_string(finding)?;
        if json.len() > FINDING_MAX {
            self.dropped += 1;
            return Ok(());
        }
        self.frame(&Frame::Finding(&json))
    }

    /// What is wrong with the present file, the first time that something is.
    pub fn new_trouble(&mut self) -> Option<String> {
        let trouble = self.storage.trouble().filter(|_| self.writer.is_some());
        let is_new = trouble.is_some() && !self.is_reported;
        self.is_reported = trouble.is_some();
        trouble.filter(|_| is_new)
    }

    /// Returns and resets the count of records left out.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Writes the buffered frames, and continues in a new file if this one is full.
    pub fn flush(&mut self) -> Result<()> {
        self.write(Writer::flush)?;
        let length = self.writer.as_ref().map_or(0, Writer::length);
        let is_full = self.limits.size.is_some_and(|size| length >= size);
        if is_full { self.rotate() } else { Ok(()) }
    }

    /// The end of the trace.
    pub fn finish(&mut self, time: u64) -> Result<()> {
        self.frame(&Frame::End { time })?;
        self.write(Writer::flush)
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<()> {
        self.write(|writer| writer.frame(frame))
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut Writer<Box<dyn Write>>) -> Result<()>,
    ) -> Result<()> {
        let written = self.writer.as_mut().map_or(Ok(()), write);
        if written.is_err() {
            self.writer = None;
        }
        written.with_context(|| self.storage.failure())
    }

    /// Continues in another file.
    fn rotate(&mut self) -> Result<()> {
        self.frame(&Frame::Continued)?;
        self.write(Writer::flush)?;
        self.writer = None;
        self.header.sequence += 1;
        self.writer = Some(begin(&mut *self.storage, &self.limits, &self.header)?);
        // Each file can be read on its own.
        self.processes.clear();
        self.cgroups.clear();
        for offset in self.clocks.clone() {
            self.frame(&Frame::Host(HostFrame::Clock(offset)))?;
        }
        Ok(())
    }
}

fn begin(
    storage: &mut dyn Storage,
    limits: &Limits,
    header: &Header,
) -> Result<Writer<Box<dyn Write>>> {
    let file = storage.begin()?;
    let writer = Writer::new(file, header, limits.compressed);
    writer.with_context(|| storage.failure())
}
