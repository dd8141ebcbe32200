//! Child processes that make the load, and the counter they share with us. Each has a limit of open
//! files of its own, which not even root may raise everywhere.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use crate::kit::sys;

/// A number in memory that child processes share with us.
#[derive(Clone, Copy)]
pub struct Counter(&'static AtomicU64);

impl Counter {
    pub fn new() -> Result<Self> {
        // SAFETY: a new anonymous mapping; nothing that exists is touched.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicU64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        ensure!(
            page != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
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

/// A child process that is killed when this is dropped, or when we die.
pub struct Worker {
    pid: libc::pid_t,
    line: UnixStream,
}

/// Between a worker and us: it says that it is set up, we say when to go on.
pub struct Line(UnixStream);

impl Line {
    pub fn ready(&mut self) -> Result<()> {
        self.0.write_all(b"x").context("saying that it is ready")
    }

    /// Waits until it is told to go on.
    pub fn await_go(&mut self) -> Result<()> {
        self.0.read_exact(&mut [0]).context("waiting to go on")
    }
}

impl Worker {
    /// Forks, and waits until `work` says that it is ready. Other threads must not print meanwhile.
    pub fn start(what: &str, work: impl FnOnce(Line) -> Result<()>) -> Result<Self> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // SAFETY: the child has no threads; the C library makes its allocator usable after a fork.
        let pid = sys::check(unsafe { libc::fork() })?;
        if pid == 0 {
            drop(ours);
            // SAFETY: takes no pointers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if let Err(error) = work(Line(theirs)) {
                eprintln!("{what}: {error:#}");
            }
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(1) };
        }
        drop(theirs);
        let ready = ours.read_exact(&mut [0]);
        let worker = Self { pid, line: ours };
        ready.with_context(|| format!("{what} could not be set up"))?;
        Ok(worker)
    }

    /// Lets it go on.
    pub fn go(&mut self) -> Result<()> {
        self.line.write_all(b"x").context("telling it to go on")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: a child of ours that nobody else waits for; a null status is allowed.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Until killed.
pub fn hold() -> ! {
    loop {
        // SAFETY: takes no pointers.
        unsafe { libc::pause() };
    }
}
