//! Prompt ends and blocked readers: a signal, `-d`, or a second signal ends a trace within a
//! second. Lines that the reader does not take are counted or abandoned; the recording stays
//! complete.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys;
use crate::kit::tracer::PATIENCE;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "blocked_reader",
        run: blocked_reader,
    },
    HardCase {
        name: "list_blocked_reader",
        run: list_blocked_reader,
    },
    HardCase {
        name: "slow_reader_is_counted",
        run: slow_reader_is_counted,
    },
    HardCase {
        name: "second_interrupt",
        run: second_interrupt,
    },
    HardCase {
        name: "duration_in_a_burst",
        run: duration_in_a_burst,
    },
];

/// Lines that fill a pipe several times over.
const FULL_PIPE: u32 = 2000;
/// Lines that also fill the tracer's output queue of 16 MiB.
const FULL_QUEUE: u32 = 50_000;
/// A ring buffer that holds that many records.
const LARGE_RING: &str = "67108864";

/// A trace of one namespace whose stdout is a pipe that the scenario reads on demand.
struct Trace {
    child: Running,
    reader: BufReader<ChildStdout>,
}

impl Trace {
    /// Starts it, and reads its first line with a single buffered read.
    fn begin(bench: &Bench, netns: &Namespace, options: &[&str]) -> Result<Self> {
        let netns = netns.inode.to_string();
        let mut command = bench.command(&["--json", "-N", &netns]);
        command
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::start(&mut command)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut reader = BufReader::with_capacity(4096, stdout);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        ensure!(Event::parse(&first)?.is("start"), "first line: {first}");
        Ok(Self { child, reader })
    }

    /// Waits for the end; the limit is measured from `begin`.
    fn end(mut self, begin: Instant, within: Duration) -> Result<(ExitStatus, String)> {
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                self.child.kill()?;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let took = begin.elapsed();
        let status = self.child.wait()?;
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().context("no stderr")?;
        pipe.read_to_string(&mut stderr)?;
        ensure!(
            took <= within,
            "ended after {took:?}, {within:?} at most: {status}, stderr: {stderr}"
        );
        Ok((status, stderr))
    }
}

/// How soon a trace must end: within one second, longer on emulated CPUs.
fn soon() -> Duration {
    sys::second_or(5)
}

/// How soon a trace must exit while the machine is never idle. Detaching is the kernel's time: it detaches
/// fentry programs function by function, and if it is preemptible each waits for an RCU-tasks grace period
/// (`ftrace_shutdown`). On the emulated PREEMPT_RT kernel 5.1 s were measured for six functions.
fn detached() -> Duration {
    sys::second_or(12)
}

/// Changes the idle time of an armed socket `times` times. Each change is large enough to move the
/// timer and so produces an event.
fn storm(pair: &Pair, times: u32) -> Result<()> {
    for time in 0..times {
        let idle = 1000 * (2 - time % 2);
        pair.client.set_idle(idle)?;
    }
    Ok(())
}

fn armed_pair() -> Result<Pair> {
    let pair = Pair::over(LOCALHOST)?;
    pair.client.arm(Keepalive::after(1000))?;
    Ok(pair)
}

/// The reader does not read: SIGINT and SIGTERM still end the trace in time, and its recording is
/// complete.
fn blocked_reader(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?;
    for signal in [Signal::INT, Signal::TERM] {
        let pair = armed_pair()?;
        let probed = Pair::over(LOCALHOST)?;
        let recording = Recording::new("blocked");
        let path = recording.0.display().to_string();
        let trace = Trace::begin(bench, &netns, &["--record", &path])?;
        probed.client.arm(Keepalive::EVERY_SECOND)?;
        storm(&pair, FULL_PIPE)?;
        thread::sleep(Duration::from_secs(3));
        let begin = Instant::now();
        sys::signal(trace.child.id(), signal)?;
        let (status, stderr) = trace.end(begin, soon())?;
        ensure!(status.code() == Some(1), "{status}, stderr: {stderr}");
        ensure!(stderr.contains("abandoned"), "stderr: {stderr}");
        let check = recording.replay(bench, &["--check"])?;
        ensure!(check.stdout.contains("whole"), "{}", check.stdout);
        let port = pair.client.local()?.port().to_string();
        let replayed = recording.replay(bench, &["--json", "-L", &port])?;
        let armed = replayed.stdout.matches("\"event\":\"armed\"").count();
        ensure!(
            armed == FULL_PIPE as usize,
            "{armed} events in the recording"
        );
        let port = probed.client.local()?.port().to_string();
        let replayed = recording.replay(bench, &["--json", "-L", &port])?;
        let probes = replayed.stdout.matches("\"probe_sent\"").count();
        ensure!(
            probes >= 2,
            "{probes} probes in the recording: {}",
            replayed.stdout
        );
    }
    Ok(())
}

/// `list --watch` into a pipe that is not read and is smaller than one listing.
fn list_blocked_reader(bench: &Bench) -> Result<()> {
    let _netns = Namespace::create()?;
    let _pairs: Vec<Pair> = (0..200)
        .map(|_| Pair::over(LOCALHOST))
        .collect::<Result<_>>()?;
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = Command::new(&bench.keepalive);
        command.args(["list", "--watch", "1", "--json", "--no-owner"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running::start(&mut command)?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut reader = BufReader::with_capacity(4096, stdout);
        reader.read_line(&mut String::new())?;
        thread::sleep(Duration::from_secs(2));
        let begin = Instant::now();
        sys::signal(child.id(), signal)?;
        let (status, stderr) = Trace { child, reader }.end(begin, soon())?;
        ensure!(status.code() == Some(1), "{status}, stderr: {stderr}");
        ensure!(stderr.contains("abandoned"), "stderr: {stderr}");
    }
    Ok(())
}

/// A recording file, removed on drop.
struct Recording(PathBuf);

impl Recording {
    fn new(name: &str) -> Self {
        let name = format!("/tmp/keepalive-{name}-{}.kar", std::process::id());
        // A file left by a previous run.
        let _ = fs::remove_file(&name);
        Self(name.into())
    }

    fn replay(&self, bench: &Bench, options: &[&str]) -> Result<Refused> {
        let mut command = Command::new(&bench.keepalive);
        command.arg("replay").arg(&self.0).args(options);
        let replayed = Refused::from(command)?;
        replayed.expect_code(0)?;
        Ok(replayed)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The reader pauses and continues: it gets whole lines; the number of missing lines is reported in
/// their place, in `end` and in the summary.
fn slow_reader_is_counted(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?;
    let pair = armed_pair()?;
    let mut trace = Trace::begin(bench, &netns, &["--ring-bytes", LARGE_RING])?;
    storm(&pair, FULL_QUEUE)?;
    // The ring buffer holds all records; the output queue must be full before the reader continues.
    thread::sleep(Duration::from_secs(5));
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut is_interrupted = false;
    while trace.reader.read_line(&mut line)? > 0 {
        let event = Event::parse(&line).with_context(|| format!("line {}", lines.len() + 2))?;
        if event.is("lost") && !is_interrupted {
            // The gap was reported: no line is missing after it.
            sys::signal(trace.child.id(), Signal::INT)?;
            is_interrupted = true;
        }
        lines.push(event);
        line.clear();
    }
    let (status, stderr) = trace.end(Instant::now(), PATIENCE)?;
    ensure!(status.success(), "{status}, stderr: {stderr}");
    let end = lines.pop().context("no lines")?;
    ensure!(end.is("end"), "last line: {end}");
    let (gaps, shown): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.is("lost"));
    let mut missing = 0;
    for gap in gaps {
        gap.expect("where", "output")?;
        missing += gap.number("count")?;
    }
    ensure!(missing > 0, "no line is missing among {}", shown.len());
    end.expect("lost.output", missing)?;
    end.expect("lost.ring", 0)?;
    let mut all = 0;
    for kind in ["armed", "timer", "window_probe", "answer", "closed"] {
        all += end.number(&format!("events.{kind}"))?;
    }
    ensure!(
        shown.len() as u64 + missing == all,
        "{} lines and {missing} missing, of {all}",
        shown.len()
    );
    ensure!(all >= u64::from(FULL_QUEUE), "only {all} events");
    Ok(())
}

/// The first SIGINT waits for the reader, the second one does not.
fn second_interrupt(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?;
    let pair = armed_pair()?;
    let trace = Trace::begin(bench, &netns, &[])?;
    storm(&pair, FULL_PIPE)?;
    thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    sys::signal(trace.child.id(), Signal::INT)?;
    thread::sleep(Duration::from_millis(100));
    sys::signal(trace.child.id(), Signal::INT)?;
    let (status, stderr) = trace.end(begin, soon())?;
    ensure!(
        status.signal() == Some(Signal::INT.as_raw()),
        "{status}, stderr: {stderr}"
    );
    Ok(())
}

/// `-d` ends a trace whose ring buffer is never empty: its last line, in time, is `end`.
fn duration_in_a_burst(bench: &Bench) -> Result<()> {
    const DURATION: Duration = Duration::from_secs(2);
    let netns = Namespace::create()?;
    let pair = armed_pair()?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let storming = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                storm(&pair, 100)?;
            }
            Ok(())
        });
        let outcome = || -> Result<()> {
            let mut trace = Trace::begin(bench, &netns, &["-d", "2s"])?;
            let begin = Instant::now();
            let mut last = None;
            for line in trace.reader.by_ref().lines() {
                last = Some((line?, Instant::now()));
            }
            let (last, at) = last.context("no line")?;
            let (status, stderr) = trace.end(begin, DURATION + detached())?;
            ensure!(status.success(), "{status}, stderr: {stderr}");
            let last = Event::parse(&last)?;
            ensure!(last.is("end"), "last line: {last}");
            let took = at - begin;
            ensure!(took <= DURATION + soon(), "the end came after {took:?}");
            ensure!(last.number("events.armed")? > 1000, "no burst: {last}");
            Ok(())
        };
        let outcome = outcome();
        is_over.store(true, Ordering::Relaxed);
        storming.join().ok().context("the thread panicked")??;
        outcome
    })
}
