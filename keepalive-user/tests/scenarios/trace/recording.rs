//! `trace --record` and `replay`: the replayed output equals the live output byte for byte; for a
//! killed trace up to where its recording ends.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys;
use crate::kit::tracer::{PATIENCE, START};

pub const CASES: &[HardCase] = &[HardCase {
    name: "recording",
    run: recording,
}];

/// A trace that writes JSON and a recording. Its files are removed on drop.
struct Trace {
    child: Running,
    lines: PathBuf,
    recording: PathBuf,
}

impl Trace {
    fn begin(bench: &Bench, name: &str, netns: u64, options: &[&str]) -> Result<Self> {
        let file = |kind: &str| {
            PathBuf::from(format!(
                "/tmp/keepalive-{name}-{}.{kind}",
                std::process::id()
            ))
        };
        let (lines, recording) = (file("jsonl"), file("kar"));
        let mut command = bench.command(&["--json", "-N", &netns.to_string()]);
        command.args(options).arg("-o").arg(&lines);
        command.arg("--record").arg(&recording);
        let trace = Self {
            child: Running::start(command.stderr(Stdio::null()))?,
            lines,
            recording,
        };
        trace.await_text("\n", START)?;
        Ok(trace)
    }

    /// Waits until its output contains this text.
    fn await_text(&self, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !fs::read_to_string(&self.lines).is_ok_and(|lines| lines.contains(text)) {
            if Instant::now() > deadline {
                bail!("{text:?} is not in {}", self.lines.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        sys::signal(self.child.id(), signal)?;
        self.child.wait()?;
        Ok(())
    }

    fn replay(&self, bench: &Bench, options: &[&str]) -> Result<Refused> {
        let mut command = Command::new(&bench.keepalive);
        command.arg("replay").arg(&self.recording).args(options);
        let run = Refused::from(command)?;
        run.expect_code(0)?;
        Ok(run)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.lines);
        let _ = fs::remove_file(&self.recording);
    }
}

fn recording(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?.inode;
    let mut plain = Trace::begin(bench, "plain", netns, &[])?;
    let mut packed = Trace::begin(bench, "packed", netns, &["--record-zstd"])?;
    let mut killed = Trace::begin(bench, "killed", netns, &[])?;
    let (answered, dying) = (Pair::over(LOCALHOST)?, Pair::over(LOCALHOST)?);
    answered.client.arm(Keepalive::EVERY_SECOND)?;
    dying.client.arm(Keepalive::EVERY_SECOND.probes(2))?;
    dying.server.deafen()?;
    for trace in [&plain, &packed, &killed] {
        trace.await_text("\"cause\":\"keepalive_probes\"", PATIENCE)?;
        trace.await_text("\"event\":\"answer\"", PATIENCE)?;
    }
    killed.end(Signal::KILL)?;
    for trace in [&mut plain, &mut packed] {
        trace.end(Signal::INT)?;
        let live = fs::read_to_string(&trace.lines)?;
        let run = trace.replay(bench, &["--json"])?;
        ensure!(run.stdout == live, "replayed {}\nlive {live}", run.stdout);
    }
    let text = plain.replay(bench, &[])?.stdout;
    let probe = format!("probe 1/2 {}", bench.sent());
    for part in [&*probe, "probe 1 answered", "WORST RTT"] {
        ensure!(text.contains(part), "{part:?} is not in {text}");
    }
    // A filter on replay selects the same events as a filter in the BPF programs.
    let port = dying.server.local()?.port().to_string();
    let output = plain.replay(bench, &["--json", "-R", &port])?.stdout;
    ensure!(output.contains("keepalive_probes") && !output.contains("\"event\":\"answer\""));

    // All printed lines are in the recording, and the truncation is reported.
    let live = fs::read_to_string(&killed.lines)?;
    let run = killed.replay(bench, &["--json"])?;
    let whole = live.rsplit_once('\n').map_or("", |(whole, _)| whole);
    ensure!(run.stdout.starts_with(whole), "{}\n{live}", run.stdout);
    ensure!(run.stderr.contains("truncated at byte"), "{}", run.stderr);
    Ok(())
}
