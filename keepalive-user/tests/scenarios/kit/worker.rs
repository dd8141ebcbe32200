//! Child processes that produce the load, and the counter they share with this process. Several
//! processes are needed because RLIMIT_NOFILE is per process, and on hardened machines not even
//! root may raise it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::kit::sys::Child;

/// A counter in memory shared with child processes.
#[derive(Clone, Copy)]
pub struct Counter(&'static AtomicU64);

impl Counter {
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping, at an address that the kernel chooses; nothing that exists is touched.
        let page = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size_of::<AtomicU64>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        };
        let page = page.context("mmap")?;
        // SAFETY: the page is zeroed, aligned, large enough, and never unmapped.
        Ok(Self(unsafe { &*page.cast::<AtomicU64>() }))
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A child process that is killed on drop, or when this process dies.
pub struct Worker {
    _child: Child,
    line: UnixStream,
}

/// The socket pair between a worker and this process: the worker sends a byte when it is set up,
/// and waits for a byte to continue.
pub struct Line(UnixStream);

impl Line {
    pub fn ready(&mut self) -> Result<()> {
        self.0.write_all(b"x").context("signalling readiness")
    }

    /// Waits for the signal to continue.
    pub fn await_go(&mut self) -> Result<()> {
        self.0.read_exact(&mut [0]).context("waiting to continue")
    }
}

impl Worker {
    /// Forks, and waits until `work` signals that it is ready. Other threads must not print
    /// meanwhile.
    pub fn start(what: &str, work: impl FnOnce(Line) -> Result<()>) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut ends = Some((ours, theirs));
        let child = Child::start(|| {
            let Some((ours, theirs)) = ends.take() else {
                return 1;
            };
            drop(ours);
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            if let Err(error) = work(Line(theirs)) {
                eprintln!("{what}: {error:#}");
            }
            1
        })?;
        let (mut ours, theirs) = ends.context("an end of the pair is missing")?;
        drop(theirs);
        let ready = ours.read_exact(&mut [0]);
        let worker = Self {
            _child: child,
            line: ours,
        };
        ready.with_context(|| format!("{what} could not be set up"))?;
        Ok(worker)
    }

    /// Signals the worker to continue.
    pub fn go(&mut self) -> Result<()> {
        self.line.write_all(b"x").context("letting it continue")
    }
}
