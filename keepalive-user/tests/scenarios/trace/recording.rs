//! `trace --record` and `replay`: what was told live is told again, byte for byte; also of a trace
//! that was killed, as far as it came.

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

/// A trace that writes JSON and a recording. Its files go with it.
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

    /// Waits until it has written this.
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
        let told = Refused::from(command)?;
        told.expect_code(0)?;
        Ok(told)
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
        let told = trace.replay(bench, &["--json"])?;
        ensure!(told.stdout == live, "told {}\nlive {live}", told.stdout);
    }
    let text = plain.replay(bench, &[])?.stdout;
    for part in ["probe 1/2 sent", "probe 1 answered", "WORST RTT"] {
        ensure!(text.contains(part), "{part:?} is not in {text}");
    }
    // Filtered as the programs would have.
    let port = dying.server.local()?.port().to_string();
    let told = plain.replay(bench, &["--json", "-R", &port])?.stdout;
    ensure!(told.contains("keepalive_probes") && !told.contains("\"event\":\"answer\""));

    // What it wrote is in its recording, and what is missing is said.
    let live = fs::read_to_string(&killed.lines)?;
    let told = killed.replay(bench, &["--json"])?;
    let whole = live.rsplit_once('\n').map_or("", |(whole, _)| whole);
    ensure!(told.stdout.starts_with(whole), "{}\n{live}", told.stdout);
    ensure!(told.stderr.contains("truncated at byte"), "{}", told.stderr);
    Ok(())
}
