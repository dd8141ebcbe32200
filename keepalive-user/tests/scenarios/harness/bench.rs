//! Runs hard cases, each with its own tracers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::harness::suite::{Report, Verdict, panic_text};
use crate::kit::tracer::Tracer;

/// One row of the matrix.
pub struct HardCase {
    pub name: &'static str,
    pub run: fn(&Bench) -> Result<()>,
}

/// The binary under test and the backend it is to use.
#[derive(Clone)]
pub struct Bench {
    pub keepalive: String,
    pub backend: String,
}

impl Bench {
    /// What the text says of a probe: only fentry sees that it left the host.
    pub fn sent(&self) -> &'static str {
        if self.backend == "fentry" {
            "sent"
        } else {
            "made"
        }
    }

    /// A running `trace --json`.
    pub fn trace(&self, arguments: &[&str]) -> Result<Tracer> {
        Tracer::spawn(&self.keepalive, &self.backend, arguments)
    }

    /// The command line of `trace` with this backend.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.keepalive);
        command
            .args(["trace", "--backend", &self.backend])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs `trace` until it ends by itself, which must be soon.
    pub fn output(&self, arguments: &[&str]) -> Result<Refused> {
        Refused::from(self.command(arguments))
    }

    /// Runs a case on its own thread, so that its changes to namespaces, capabilities or seccomp
    /// filters end with it.
    pub fn run(&self, case: &HardCase) -> Report {
        let begin = Instant::now();
        let bench = self.clone();
        let action = case.run;
        let outcome = thread::spawn(move || catch_unwind(AssertUnwindSafe(|| action(&bench))));
        let verdict = match outcome.join() {
            Ok(Ok(Ok(()))) => Verdict::Passed,
            Ok(Ok(Err(error))) => failed(format!("{error:#}")),
            Ok(Err(panic)) | Err(panic) => failed(panic_text(panic.as_ref())),
        };
        Report {
            name: case.name,
            verdict,
            took: begin.elapsed(),
            notes: Vec::new(),
        }
    }
}

fn failed(reason: String) -> Verdict {
    Verdict::Failed {
        reason,
        details: Vec::new(),
    }
}

/// A run that ended by itself.
pub struct Refused {
    output: Output,
    pub stdout: String,
    pub stderr: String,
}

impl Refused {
    pub fn from(mut command: Command) -> Result<Self> {
        let output = command
            .output()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            output,
        })
    }

    /// Expects this exit code.
    pub fn expect_code(&self, code: i32) -> Result<&Self> {
        ensure!(
            self.output.status.code() == Some(code),
            "{}, expected exit code {code}; stderr: {}",
            self.output.status,
            self.stderr.trim()
        );
        Ok(self)
    }

    /// Expects one line on stderr with these words, and an empty stdout.
    pub fn expect_sentence(&self, parts: &[&str]) -> Result<&Self> {
        ensure!(
            self.stdout.is_empty(),
            "stdout must be empty: {}",
            self.stdout
        );
        for part in parts {
            ensure!(
                self.stderr.contains(part),
                "stderr must contain {part:?}: {}",
                self.stderr.trim()
            );
        }
        for noise in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            ensure!(!self.stderr.contains(noise), "a panic: {}", self.stderr);
        }
        Ok(self)
    }
}
