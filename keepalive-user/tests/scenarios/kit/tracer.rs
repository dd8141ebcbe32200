//! The tracer under test: a child process; a thread collects its events as they arrive.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::kit::event::{Event, Key};
use crate::kit::process::Running;
use crate::kit::sys;

/// How long to wait for something that should happen without further action. Kernels under test are
/// often emulated.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a tracer may take until its first line: it parses the kernel's BTF and the verifier
/// checks its programs, and in an emulated guest up to ten tracers start at once.
pub const START: Duration = Duration::from_secs(120);

static MISSED: AtomicU64 = AtomicU64::new(0);
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// What all tracers of this process have reported as missed so far.
#[derive(Clone, Copy)]
pub struct Unseen {
    /// Actions of the kernel for which it ran no program.
    pub missed: u64,
    /// Programs that the kernel skipped because they were already running on that CPU, or that
    /// collided there: both need preemption within a program, as on PREEMPT_RT.
    pub skipped: u64,
}

pub fn unseen() -> Unseen {
    Unseen {
        missed: MISSED.load(Ordering::Relaxed),
        skipped: SKIPPED.load(Ordering::Relaxed),
    }
}

/// What has arrived so far.
#[derive(Default)]
struct Log {
    lines: Vec<Event>,
    by_socket: HashMap<Key, Vec<Event>>,
    malformed: Vec<String>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    arrived: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// A running `keepalive trace --json`; it is killed when the scenario ends, also when it fails.
pub struct Tracer {
    child: Running,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    complaints: JoinHandle<String>,
    /// Its first line.
    pub start: Event,
}

/// The output of a tracer that has ended.
pub struct Ended {
    pub status: ExitStatus,
    /// Every line, in order.
    pub lines: Vec<Event>,
    /// Lines that were not JSON.
    pub malformed: Vec<String>,
    pub stderr: String,
}

impl Tracer {
    /// Starts it and waits for its `start` line; the error includes its stderr.
    pub fn spawn(binary: &str, backend: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command
            .args(["trace", "--json", "--backend", backend])
            .args(arguments);
        Self::from_command(command)
    }

    /// The same with any command line.
    pub fn from_command(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::start(&mut command)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let shared = Arc::new(Shared::default());
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || collect(stdout, &shared)
        });
        let complaints = thread::spawn(move || read_all(stderr));
        let first = await_first_line(&shared);
        match first {
            Some(start) if start.is("start") => Ok(Self {
                child,
                shared,
                reader,
                complaints,
                start,
            }),
            other => {
                let _ = child.kill();
                let status = child.wait().context("waiting for the tracer")?;
                let complaints = complaints.join().unwrap_or_default();
                bail!(
                    "no `start` line but {other:?}; {status}, stderr: {}",
                    complaints.trim()
                )
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Events of one socket, in the order of their arrival.
    pub fn events_of(&self, key: Key) -> Vec<Event> {
        let log = self.shared.lock();
        log.by_socket.get(&key).cloned().unwrap_or_default()
    }

    /// Events of all sockets of a network namespace since a point in time, in the order of their
    /// arrival. The time is needed because the kernel reuses the inode number of a deleted
    /// namespace.
    pub fn events_in(&self, netns: u64, since_ns: u64) -> Vec<Event> {
        self.events_where(|line| {
            line.get("socket.netns").as_u64() == Some(netns) && line.at_ns() >= since_ns
        })
    }

    /// Events that satisfy a condition, in the order of their arrival.
    pub fn events_where(&self, is_wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let log = self.shared.lock();
        let wanted = log.lines.iter().filter(|line| is_wanted(line));
        wanted.cloned().collect()
    }

    /// Waits for an event of a socket, beginning with the one numbered `from`; returns it and its
    /// number.
    pub fn wait_for(
        &self,
        key: Key,
        from: usize,
        patience: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Option<(usize, Event)> {
        let mut next = from;
        self.wait_until(patience, |log| {
            let events = log.by_socket.get(&key)?;
            while next < events.len() {
                next += 1;
                if wanted(&events[next - 1]) {
                    return Some((next - 1, events[next - 1].clone()));
                }
            }
            None
        })
    }

    /// Waits for any line.
    pub fn wait_for_line(
        &self,
        patience: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Option<Event> {
        let mut next = 0;
        self.wait_until(patience, |log| {
            while next < log.lines.len() {
                next += 1;
                if wanted(&log.lines[next - 1]) {
                    return Some(log.lines[next - 1].clone());
                }
            }
            None
        })
    }

    fn wait_until<T>(
        &self,
        patience: Duration,
        mut look: impl FnMut(&Log) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut log = self.shared.lock();
        loop {
            if let Some(found) = look(&log) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || log.ended {
                return None;
            }
            log = match self.shared.arrived.wait_timeout(log, left) {
                Ok((log, _)) => log,
                Err(broken) => broken.into_inner().0,
            };
        }
    }

    /// Sends SIGINT and waits for the end.
    pub fn interrupt(self) -> Result<Ended> {
        sys::signal(self.pid(), Signal::INT).context("SIGINT to the tracer")?;
        self.end()
    }

    /// Waits until the tracer ends by itself, or kills it after a while.
    pub fn end(mut self) -> Result<Ended> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("waiting for the tracer")? {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                bail!("the tracer did not end within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(20));
        };
        ensure!(self.reader.join().is_ok(), "the reader panicked");
        let stderr = self.complaints.join().unwrap_or_default();
        let mut log = self.shared.lock();
        Ok(Ended {
            status,
            lines: std::mem::take(&mut log.lines),
            malformed: std::mem::take(&mut log.malformed),
            stderr,
        })
    }
}

impl Ended {
    /// The last line, which must be `end`.
    pub fn end(&self) -> Result<&Event> {
        let last = self.lines.last().context("the tracer printed nothing")?;
        ensure!(
            last.is("end"),
            "the last line is not `end` but {last}; stderr: {}",
            self.stderr.trim()
        );
        Ok(last)
    }
}

fn collect(stdout: ChildStdout, shared: &Shared) {
    let mut reader = BufReader::with_capacity(1 << 16, stdout);
    let mut line = String::new();
    loop {
        line.clear();
        let more = matches!(reader.read_line(&mut line), Ok(bytes) if bytes > 0);
        let mut log = shared.lock();
        if !more {
            log.ended = true;
            drop(log);
            shared.arrived.notify_all();
            return;
        }
        match Event::parse(&line) {
            Ok(event) => {
                let count = event.number("count").unwrap_or(0);
                if event.is("missed") {
                    MISSED.fetch_add(count, Ordering::Relaxed);
                } else if event.is("lost") && matches!(event.text("where"), "recursion" | "scratch")
                {
                    SKIPPED.fetch_add(count, Ordering::Relaxed);
                }
                if let Some(key) = event.key() {
                    log.by_socket.entry(key).or_default().push(event.clone());
                }
                log.lines.push(event);
            }
            Err(_) => log.malformed.push(line.clone()),
        }
        drop(log);
        // Waiters are notified once per burst, when the pipe is empty.
        if reader.buffer().is_empty() {
            shared.arrived.notify_all();
        }
    }
}

fn await_first_line(shared: &Shared) -> Option<Event> {
    let deadline = Instant::now() + START;
    let mut log = shared.lock();
    while log.lines.is_empty() && !log.ended {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        log = match shared.arrived.wait_timeout(log, left) {
            Ok((log, _)) => log,
            Err(broken) => broken.into_inner().0,
        };
    }
    log.lines.first().cloned()
}

fn read_all(mut stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
