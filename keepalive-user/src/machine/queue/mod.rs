//! # The queue
//!
//! Between the data path and the reader of the output: a bounded queue, and a thread that writes.
//!
//! A reader that is slow or has stopped fills the queue and blocks nothing else. When the queue is full,
//! whole lines are dropped and counted, or the caller waits, depending on the [`Policy`].

mod lines;
mod listings;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::unix::fs::FileTypeExt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};

pub use self::{
    lines::{PATIENCE, Queued},
    listings::Listings,
};
use super::stop;
use crate::core::pipeline::MissedLines;

/// Bytes that may wait to be written.
const LIMIT: usize = 16 << 20;
/// Buffered bytes that are passed to the writer without a flush.
const CHUNK: usize = 1 << 16;
/// How long a queue that becomes full may take to drain, once: the writer may have had no CPU.
const GRACE: Duration = Duration::from_millis(20);
/// How often a wait checks whether the session has to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// What to do with a line when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Drop it and count it: a pipe, a terminal, a socket.
    Drop,
    /// Wait for room until the session has to stop: a regular file has no reader that could stall.
    Wait,
}

impl Policy {
    /// The policy for this kind of file.
    pub fn of(file: &File) -> Self {
        match file.metadata().map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_file() || kind.is_block_device() => Self::Wait,
            _ => Self::Drop,
        }
    }
}

/// The result of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    Written,
    /// This many lines were not written in time; the last written line may be truncated.
    Abandoned(u64),
}

/// Waits from any thread until a queue is written.
pub struct Watcher(Arc<Shared>);

impl Watcher {
    /// Waits until all bytes passed to the writer are written, but no longer than this. It may be called
    /// in a panic, whatever locks the panicking thread holds.
    pub fn wait(&self, patience: Duration) {
        let begin = Instant::now();
        let is_written = || {
            let state = self.0.state.try_lock();
            state.is_ok_and(|state| state.bytes == 0 || state.failed)
        };
        while !is_written() && begin.elapsed() < patience {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The end that takes lines.
pub struct Queue {
    shared: Arc<Shared>,
    policy: Policy,
    limit: usize,
    /// The file, until the thread takes it.
    file: Option<File>,
    gathered: Chunk,
    /// Bytes passed to the writer and not written, at the last check: an upper bound.
    pending: usize,
    /// The queue was full, and is not yet half empty.
    full: bool,
    /// Lines dropped since they were last reported.
    missed: MissedLines,
    /// Lines that were accepted, but dropped at the end.
    cut: u64,
    /// Whether lines are accepted beyond the limit.
    forced: bool,
}

/// Some whole lines.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
    probes: u64,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Signals the writer that there is work.
    more: Condvar,
    /// The writer signals that bytes were written, or that it failed.
    less: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Chunk>,
    /// Bytes passed to the writer and not written, including those being written.
    bytes: usize,
    lines: u64,
    /// An empty buffer for reuse.
    spare: Vec<u8>,
    closed: bool,
    /// The writer's error; the caller that reports it takes it.
    error: Option<io::Error>,
    failed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Queue {
    /// A queue to this file. Its thread starts with the first flush.
    pub fn new(file: File, policy: Policy) -> Self {
        Self::with_limit(file, policy, LIMIT)
    }

    pub fn with_limit(file: File, policy: Policy, limit: usize) -> Self {
        Self {
            shared: Arc::default(),
            policy,
            limit,
            file: Some(file),
            gathered: Chunk::default(),
            pending: 0,
            full: false,
            missed: MissedLines::default(),
            cut: 0,
            forced: false,
        }
    }

    pub fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.shared))
    }

    /// Accepts a whole line, or drops and counts it.
    ///
    /// # Errors
    /// The writer's error.
    pub fn offer(&mut self, line: &[u8]) -> io::Result<()> {
        self.offer_probes(line, 0)
    }

    /// As [`Queue::offer`], for a line that reports this many keepalive probes.
    pub fn offer_probes(&mut self, line: &[u8], probes: u64) -> io::Result<()> {
        if !self.has_room(line.len())? {
            self.missed.lines += 1;
            self.missed.probes += probes;
            return Ok(());
        }
        self.gathered.bytes.extend_from_slice(line);
        self.gathered.lines += 1;
        self.gathered.probes += probes;
        if self.gathered.bytes.len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    /// The dropped lines to report now, and the keepalive probes among them: 0 while the queue is still full.
    pub fn take_missed(&mut self) -> MissedLines {
        if self.missed.lines == 0 || !(self.forced || self.is_ready()) {
            return MissedLines::default();
        }
        self.full = false;
        std::mem::take(&mut self.missed)
    }

    /// Waits until all is written, but no longer than this; then drops what the writer has not
    /// begun, and counts it, so that a slow reader still gets the end.
    ///
    /// # Errors
    /// The writer's error.
    pub fn settle(&mut self, patience: Duration) -> io::Result<()> {
        self.flush()?;
        let begin = Instant::now();
        let mut state = self.shared.lock();
        while state.bytes > 0 && !state.failed {
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                // Lines for a file are never dropped: lines that are not written in time are abandoned and
                // reported by `finish`.
                if matches!(self.policy, Policy::Wait) {
                    break;
                }
                for chunk in std::mem::take(&mut state.waiting) {
                    state.bytes -= chunk.bytes.len();
                    state.lines -= chunk.lines;
                    self.cut += chunk.lines;
                    self.missed.lines += chunk.lines;
                    self.missed.probes += chunk.probes;
                }
                break;
            }
            state = match self.shared.less.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(broken) => broken.into_inner().0,
            };
        }
        self.pending = state.bytes;
        Self::result(&mut state)
    }

    /// Accepts everything from now on: only the last, short lines follow.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// Whether a full queue is half empty again.
    fn is_ready(&self) -> bool {
        !self.full || self.shared.lock().bytes + self.gathered.bytes.len() <= self.limit / 2
    }

    /// Whether all accepted lines are written.
    pub fn is_idle(&self) -> bool {
        self.gathered.bytes.is_empty() && self.shared.lock().bytes == 0
    }

    /// Whether the writer has failed.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().failed
    }

    fn has_room(&mut self, length: usize) -> io::Result<bool> {
        let needed = self.gathered.bytes.len() + length;
        if self.forced || (!self.full && self.pending + needed <= self.limit) {
            return Ok(true);
        }
        if self.full {
            // No line may follow before the missing lines are reported.
            return Ok(false);
        }
        let limit = self.limit.saturating_sub(needed);
        let begin = Instant::now();
        let mut state = self.shared.lock();
        while state.bytes > limit && !state.failed {
            let (stop, wait) = match self.policy {
                Policy::Drop => (begin.elapsed() >= GRACE, GRACE),
                Policy::Wait => (stop::is_requested(), STOP_CHECK),
            };
            if stop {
                self.full = true;
                return Ok(false);
            }
            state = match self.shared.less.wait_timeout(state, wait) {
                Ok((state, _)) => state,
                Err(broken) => broken.into_inner().0,
            };
        }
        self.pending = state.bytes;
        Self::result(&mut state).map(|()| true)
    }

    /// Passes the buffered lines to the writer.
    ///
    /// # Errors
    /// The writer's error, or that its thread cannot be started.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let shared = Arc::clone(&self.shared);
            thread::Builder::new()
                .name("output".to_owned())
                .spawn(move || write(file, &shared))?;
        }
        let mut state = self.shared.lock();
        if !self.gathered.bytes.is_empty() {
            let spare = std::mem::take(&mut state.spare);
            let chunk = std::mem::replace(
                &mut self.gathered,
                Chunk {
                    bytes: spare,
                    ..Chunk::default()
                },
            );
            state.bytes += chunk.bytes.len();
            state.lines += chunk.lines;
            state.waiting.push_back(chunk);
            self.shared.more.notify_one();
        }
        self.pending = state.bytes;
        Self::result(&mut state)
    }

    fn result(state: &mut State) -> io::Result<()> {
        match state.error.take() {
            Some(error) => Err(error),
            None if state.failed => Err(io::ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }

    /// Passes the rest to the writer and waits until it is written, but no longer than this.
    ///
    /// # Errors
    /// The writer's error.
    pub fn finish(&mut self, patience: Duration) -> io::Result<Finished> {
        self.flush()?;
        let begin = Instant::now();
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.more.notify_one();
        while state.bytes > 0 && !state.failed {
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(Finished::Abandoned(state.lines + self.cut));
            }
            state = match self.shared.less.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(broken) => broken.into_inner().0,
            };
        }
        Self::result(&mut state).map(|()| Finished::Written)
    }
}

impl Drop for Queue {
    /// The thread ends when it has written everything; if it is blocked, it ends with the process.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_one();
    }
}

/// The thread: writes until the queue is closed and empty, or until a write fails.
fn write(mut file: File, shared: &Shared) {
    let mut state = shared.lock();
    loop {
        let Some(mut chunk) = state.waiting.pop_front() else {
            if state.closed {
                return;
            }
            state = shared
                .more
                .wait(state)
                .unwrap_or_else(|broken| broken.into_inner());
            continue;
        };
        drop(state);
        let written = write_all(&mut file, &chunk.bytes);
        state = shared.lock();
        if let Err(error) = written {
            (state.error, state.failed) = (Some(error), true);
            state.waiting.clear();
            shared.less.notify_all();
            return;
        }
        state.bytes -= chunk.bytes.len();
        state.lines -= chunk.lines;
        chunk.bytes.clear();
        state.spare = chunk.bytes;
        shared.less.notify_all();
    }
}

/// As [`Write::write_all`]; waits if another process has made the descriptor non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // If poll is interrupted, the next write shows whether there is room.
                let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
