//! The tracer under load: a child process whose output is read immediately and discarded, except
//! for the first line, which shows that it runs, and the last line, which has its losses.

use std::fs;
use std::io::Read;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::kit::event::Event;
use crate::kit::process::Running;
use crate::kit::sys;

/// How long it may take to start while a workload runs.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end after SIGINT; one second is the goal.
const END: Duration = Duration::from_secs(10);
/// Longer than any last line.
const TAIL: usize = 1 << 16;

/// A running `keepalive trace --json`.
pub struct Loaded {
    child: Running,
    reader: JoinHandle<Vec<u8>>,
    /// When the window began, and the CPU time until then, seconds.
    began: (Instant, f64),
    cpu_percent: f64,
    peak_kib: u64,
}

/// The measurements of a finished tracer.
pub struct Finished {
    /// Share of one CPU in the window, user and system.
    pub cpu_percent: f64,
    /// VmHWM.
    pub peak_kib: u64,
    /// From SIGINT to the exit; `None` if it was killed.
    pub end_s: Option<f64>,
    /// Its last line, if that is `end`.
    end: Option<Event>,
}

impl Loaded {
    pub fn spawn(keepalive: &str, backend: &str) -> Result<Self> {
        let mut command = Command::new(keepalive);
        command
            .args(["trace", "--json", "--backend", backend])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = Running::start(&mut command)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let (started, starts) = channel();
        let reader = thread::spawn(move || read(stdout, &started));
        await_start(&starts)?;
        Ok(Self {
            child,
            reader,
            began: (Instant::now(), 0.0),
            cpu_percent: 0.0,
            peak_kib: 0,
        })
    }

    pub fn begin_window(&mut self) -> Result<()> {
        self.began = (Instant::now(), self.cpu_seconds()?);
        Ok(())
    }

    pub fn end_window(&mut self) -> Result<()> {
        let (began, before) = self.began;
        let used = self.cpu_seconds()? - before;
        self.cpu_percent = 100.0 * used / began.elapsed().as_secs_f64();
        self.peak_kib = self.peak_kib()?;
        Ok(())
    }

    /// Sends SIGINT, and SIGKILL if the tracer does not end.
    pub fn finish(mut self) -> Result<Finished> {
        let begin = Instant::now();
        sys::signal(self.child.id(), Signal::INT).context("SIGINT to the tracer")?;
        let mut status = None;
        while status.is_none() && begin.elapsed() < END {
            thread::sleep(Duration::from_millis(5));
            status = self.child.try_wait().context("waiting for the tracer")?;
        }
        let end_s = status.map(|_| begin.elapsed().as_secs_f64());
        if let Some(status) = status {
            ensure!(status.success(), "the tracer ended with {status}");
        } else {
            self.child.kill().context("SIGKILL to the tracer")?;
            self.child.wait().context("waiting for the tracer")?;
        }
        let tail = self.reader.join().ok().context("the reader panicked")?;
        Ok(Finished {
            cpu_percent: self.cpu_percent,
            peak_kib: self.peak_kib,
            end_s,
            end: last_line(&tail).filter(|event| event.is("end")),
        })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        // The process name may contain spaces and parentheses, so parsing starts after the last
        // one; utime and stime are fields 14 and 15.
        let (_, fields) = text.rsplit_once(')').context("no name in stat")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    fn peak_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        text.lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|value| value.trim().split(' ').next())
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("no VmHWM in {path}"))
    }
}

impl Finished {
    /// An object of numbers in the `end` line; null if it is missing.
    pub fn counts(&self, name: &str) -> Value {
        self.end
            .as_ref()
            .map_or(Value::Null, |end| end.get(name).clone())
    }

    /// Observations lost. Unresolved owners are not lost observations, and `probes` is the part of
    /// the other counts that were probes.
    pub fn lost(&self) -> Option<u64> {
        let counts = self.counts("lost");
        let places = counts.as_object()?.iter();
        Some(
            places
                .filter(|(place, _)| !matches!(place.as_str(), "owner" | "probes"))
                .filter_map(|(_, count)| count.as_u64())
                .sum(),
        )
    }

    /// Actions of the kernel that no program saw; `None` also if the tracer does not count them.
    pub fn missed(&self) -> Option<u64> {
        let counts = self.counts("missed");
        Some(counts.as_object()?.values().filter_map(Value::as_u64).sum())
    }
}

fn await_start(starts: &Receiver<()>) -> Result<()> {
    starts
        .recv_timeout(START)
        .with_context(|| format!("the tracer printed no line within {START:?}"))
}

/// Reads until the end of the output; signals when the first line has arrived, and returns the last
/// bytes.
fn read(mut stdout: ChildStdout, started: &Sender<()>) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 18];
    let mut tail = Vec::new();
    let mut is_started = false;
    while let Ok(length) = stdout.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let bytes = &buffer[..length];
        if !is_started && bytes.contains(&b'\n') {
            is_started = started.send(()).is_ok();
        }
        tail.extend_from_slice(&bytes[length.saturating_sub(TAIL)..]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
    tail
}

fn last_line(tail: &[u8]) -> Option<Event> {
    let text = String::from_utf8_lossy(tail);
    Event::parse(text.lines().last()?).ok()
}
