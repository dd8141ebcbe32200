//! 20,000 sockets with dead peers whose keepalive timers expire in the same ticks: every probe that
//! the kernel counts is reported, counted as lost, or counted as missed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::harness::bench::{Bench, HardCase};
use crate::kit::event::Event;
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::Keepalive;
use crate::kit::sys::{self, hold};
use crate::kit::tracer::{PATIENCE, START};
use crate::kit::witness::Counters;
use crate::kit::worker::{Line, Worker};
use crate::trace::silent::Silent;

pub const CASES: &[HardCase] = &[HardCase {
    name: "twenty_thousand_in_step",
    run: twenty_thousand_in_step,
}];

const SOCKETS: u64 = 20_000;
/// Stays below the limit of open files (RLIMIT_NOFILE) that hardened machines also set for root.
const WORKERS: u64 = 2;
const PROBES: u32 = 9;

fn twenty_thousand_in_step(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?.inode;
    let mut workers = (0..WORKERS)
        .map(|_| Worker::start("sockets in step", hold_in_step))
        .collect::<Result<Vec<_>>>()?;
    let mut trace = Trace::begin(bench, netns)?;
    workers.iter_mut().try_for_each(Worker::go)?;
    await_deaths()?;
    let lines = trace.end()?;
    let counted = Counters::read()?.keepalive_probes();
    // tcp_keepalive_timer ends a connection once this many probes are unanswered.
    ensure!(
        counted == SOCKETS * u64::from(PROBES),
        "the kernel counted {counted} probes"
    );
    drop(workers);
    lines.expect_sum(counted)
}

fn hold_in_step(mut line: Line) -> Result<()> {
    let connections = SOCKETS / WORKERS / 2;
    let keepalive = Keepalive::EVERY_SECOND.probes(PROBES);
    let silent = Silent::connect(connections as usize, keepalive)?;
    line.ready()?;
    line.await_go()?;
    silent.switch_on()?;
    hold()
}

/// Waits until the kernel has ended every connection; it may be slow as long as there is progress.
fn await_deaths() -> Result<()> {
    let mut latest = (0, Instant::now());
    loop {
        let counters = Counters::read()?;
        if counters.timeouts() >= SOCKETS {
            return Ok(());
        }
        let progress = counters.keepalive_probes() + counters.timeouts();
        if progress > latest.0 {
            latest = (progress, Instant::now());
        }
        ensure!(
            latest.1.elapsed() < PATIENCE,
            "{} of {SOCKETS} sockets were given up, and no more for {PATIENCE:?}",
            counters.timeouts()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// A trace of one namespace into a file: 200,000 parsed lines in memory are too many for a guest.
struct Trace {
    child: Running,
    file: PathBuf,
}

impl Trace {
    fn begin(bench: &Bench, netns: u64) -> Result<Self> {
        let file = PathBuf::from(format!(
            "/tmp/keepalive-in-step-{}.jsonl",
            std::process::id()
        ));
        let mut command = bench.command(&["--json", "-N", &netns.to_string(), "-o"]);
        command.arg(&file).stderr(Stdio::null());
        let child = Running::start(&mut command)?;
        let trace = Self { child, file };
        let deadline = Instant::now() + START;
        while fs::metadata(&trace.file).map_or(0, |file| file.len()) == 0 {
            ensure!(Instant::now() < deadline, "no `start` line");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(trace)
    }

    fn end(&mut self) -> Result<Lines> {
        sys::signal(self.child.id(), Signal::INT).context("SIGINT to the tracer")?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "the tracer did not end within {PATIENCE:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Lines::read(&self.file)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// Totals over the lines of a trace.
struct Lines {
    probes: u64,
    /// Sum of the counts of `missed` lines about probes.
    missed: u64,
    end: Event,
}

impl Lines {
    fn read(file: &Path) -> Result<Self> {
        let mut lines = BufReader::new(File::open(file).context("the trace's lines")?);
        let (mut probes, mut missed) = (0, 0);
        let mut line = String::new();
        let mut last = String::new();
        while lines.read_line(&mut line)? > 0 {
            // tcp_xmit_probe_skb counts both before the transmission can fail.
            if line.contains("\"probe_sent\"") || line.contains("\"probe_failed\"") {
                probes += u64::from(line.contains("\"event\":\"timer\""));
            } else if line.contains("\"event\":\"missed\"") {
                let event = Event::parse(&line)?;
                if event.text("where") == "probe" {
                    missed += event.number("count")?;
                }
            }
            std::mem::swap(&mut line, &mut last);
            line.clear();
        }
        let end = Event::parse(&last)?;
        if !end.is("end") {
            bail!("the last line is not `end` but {end}");
        }
        Ok(Self {
            probes,
            missed,
            end,
        })
    }

    /// The sum of reported, lost and missed probes is exactly the kernel's count.
    fn expect_sum(&self, counted: u64) -> Result<()> {
        let end = &self.end;
        let decisions = ["probe_sent", "probe_failed"];
        let reported: u64 = decisions
            .iter()
            .filter_map(|decision| end.get(&format!("decisions.{decision}")).as_u64())
            .sum();
        ensure!(
            reported == self.probes,
            "`end` has {reported} probes, the lines have {}",
            self.probes
        );
        end.expect("missed.probe", self.missed)?;
        let lost = end.number("lost.probes")?;
        println!(
            "note\t20,000 sockets in step: {reported} probes reported + {lost} lost + {} missed, \
             {counted} counted by the kernel",
            self.missed
        );
        ensure!(
            reported + lost + self.missed == counted,
            "{reported} probes reported + {lost} lost + {} missed is not {counted}, which the \
             kernel counted: {end}",
            self.missed
        );
        Ok(())
    }
}
