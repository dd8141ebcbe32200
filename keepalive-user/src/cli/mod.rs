//! # The command line
//!
//! Arguments, and what they mean for the layers below. Values are checked here: the rest of the
//! program gets only valid ones.

mod audit;
mod explain;
mod list;
mod recording;
mod selection;
mod top;

use std::{borrow::Cow, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::fmt::friendly::SpanParser;

pub use self::{
    audit::{Audit, FailOn, wanted_of_trace},
    explain::Explain,
    list::{List, Switch},
    recording::{Recording, Replay, Report},
    selection::Selection,
    top::Top,
};
use crate::{
    core::{event::Backend, pipeline::Wanted},
    machine::{
        bpf::Options,
        sandbox::{Confinement, Needs, OwnerLookup},
        session::{Older, Request},
    },
    output::SchemaOf,
};

/// See what TCP keepalive really does on this machine.
#[derive(Parser, Debug)]
#[command(name = "keepalive", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  keepalive trace                         every keepalive timer and zero-window probe, explained
  keepalive trace -R 5432 -d 10m          only connections to PostgreSQL, for ten minutes
  keepalive trace --json | jq .           one JSON object per line
  keepalive trace --record FILE           and keep it: `keepalive replay FILE` replays it
  keepalive report FILE -o report.html    and a page to look at
  keepalive top                           a live screen, closest to death first
  keepalive list                          every TCP socket, its timers and settings
  keepalive explain :5432                 why no probe? what happens next?
  keepalive audit --middlebox aws-nlb     what will break, worst first
  keepalive doctor                        what this kernel allows, and why

Exit codes: 0 success (also: the reader left), 1 failure (also: output was abandoned), 2 usage,
3 not permitted, 4 not supported by this kernel, 5 findings (audit --fail-on).";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Stream keepalive timers, probes, answers and deaths as they happen (needs root)
    Trace(Trace),
    /// Watch the sockets with keepalive on a live screen, closest to death first (needs root)
    Top(Top),
    /// Show every TCP socket with its timers, its keepalive settings and its owner
    List(List),
    /// Explain one socket: why no keepalive probe is seen, what happens next, and when it dies
    Explain(Explain),
    /// Check every socket: zombies, probes that come too late, settings that have no effect
    Audit(Audit),
    /// Replay a recording of `trace --record`, on any machine and without root
    Replay(Replay),
    /// Render a recording of `trace --record` as a page, or a picture
    Report(Report),
    /// Check whether `trace` works on this machine, and if not, why and what to do
    Doctor(Doctor),
    /// Print the JSON Schema of what a command prints with --json
    Schema {
        #[arg(value_enum, default_value_t = SchemaOf::Trace)]
        of: SchemaOf,
    },
    /// Print the completions for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of keepalive, or of one of its commands
    Man { command: Option<String> },
}

impl Command {
    /// Whether diagnostics are wanted (`-v`).
    pub fn is_verbose(&self) -> bool {
        match self {
            Self::Trace(arguments) => arguments.verbose,
            Self::List(arguments) => arguments.verbose,
            Self::Explain(arguments) => arguments.verbose,
            Self::Audit(arguments) => arguments.verbose,
            Self::Doctor(arguments) => arguments.verbose,
            Self::Replay(_)
            | Self::Report(_)
            | Self::Schema { .. }
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Top(_) => false,
        }
    }
}

const TRACE_EXAMPLES: &str = "\
Examples:
  keepalive trace                         all sockets of this machine, all network namespaces
  keepalive trace -p 4711                 the sockets of one process
  keepalive trace -L 22 -4                IPv4 connections to local port 22
  keepalive trace -a 10.0.0.0/8 --json -o events.jsonl
  keepalive trace -N /proc/4711/ns/net    the network namespace of a process

Ctrl-C prints the summary, a second one ends at once. A reader that is too slow misses lines, which
are counted; one that has stopped reading makes the exit code 1.";

#[derive(Args, Debug)]
#[command(after_help = TRACE_EXAMPLES)]
pub struct Trace {
    /// Stop after this many events
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time: 500ms, 30s, 10m, 1h30m
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Print one JSON object per line (`keepalive schema` describes them)
    #[arg(long)]
    pub json: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write a report to this file at the end: .html for a page, .svg for a picture
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Check the open sockets when the trace begins, as `keepalive audit` does
    #[arg(long)]
    pub audit: bool,
    #[command(flatten)]
    pub record: Recording,
    /// Report answers when they arrive, not at the next timer: hooks tcp_ack, which is hot
    #[arg(long)]
    pub live_answers: bool,
    /// Measure the BPF programs, and print at the end what each took (to standard error)
    #[arg(long)]
    pub cost: bool,
    #[command(flatten)]
    pub loading: Loading,
    /// Show the diagnostics of the BPF programs
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub select: Selection,
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub loading: Loading,
    /// Show the verifier's log where a program is refused
    #[arg(short, long)]
    pub verbose: bool,
}

/// How to attach to the kernel.
#[derive(Args, Debug)]
pub struct Loading {
    /// Observe the kernel by this backend
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Read the running kernel's BTF from this file, if it does not export its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Set the size of the ring buffer: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = ring_bytes)]
    pub ring_bytes: u32,
    #[command(flatten)]
    pub sandbox: Sandbox,
}

impl Loading {
    /// A live session of the selected sockets.
    ///
    /// # Errors
    /// If the selection names a namespace or cgroup that does not exist.
    pub fn request(&self, select: &Selection) -> Result<Request> {
        Ok(Request {
            options: Options {
                backend: self.backend.backend(),
                filter: select.filter()?,
                ring_bytes: self.ring_bytes,
                btf: self.btf.clone(),
                ..Options::default()
            },
            wanted: Wanted {
                pid: select.pid,
                // The programs filter already.
                ..Wanted::default()
            },
            older: Older::Remembered,
            needs: Needs::tracing(OwnerLookup::Proc),
            confinement: self.sandbox.confinement(),
            filters: select.described(),
        })
    }
}

/// Whether the command enters the sandbox after the start.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Sandbox {
    /// Keep all capabilities, system calls and files after the start (see `keepalive doctor`)
    #[arg(long)]
    pub no_sandbox: bool,
}

impl Sandbox {
    pub fn confinement(self) -> Confinement {
        if self.no_sandbox {
            Confinement::Declined
        } else {
            Confinement::Applied
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BackendChoice {
    /// The best one that works
    Auto,
    /// BPF trampolines: sees everything, costs nothing between timers
    Fentry,
    /// Raw tracepoints: for kernels or policies that refuse trampolines
    Tracepoint,
}

impl BackendChoice {
    pub fn backend(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Fentry => Some(Backend::Fentry),
            Self::Tracepoint => Some(Backend::Tracepoint),
        }
    }
}

/// A time as jiff reads it ("friendly": 500ms, 30s, 1h30m, 2 hours); a bare number is seconds.
fn duration(text: &str) -> Result<Duration> {
    /// Some 8,900 years.
    const MOST: Duration = Duration::from_millis(1 << 48);
    let is_bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let with_unit = if is_bare {
        Cow::Owned(format!("{text}s"))
    } else {
        Cow::Borrowed(text)
    };
    // jiff's errors are written for programmers, so they are replaced.
    let duration = SpanParser::new()
        .parse_duration(with_unit.as_bytes())
        .map_err(|_| anyhow!("not a time: use ms, s, m or h, as in {DURATIONS}"))?;
    ensure!(
        duration.is_positive(),
        "not longer than zero: use a time such as {DURATIONS}"
    );
    let duration = duration.unsigned_abs();
    ensure!(duration <= MOST, "too long: use a time such as {DURATIONS}");
    Ok(duration)
}

const DURATIONS: &str = "500ms, 30s, 10m or 1h30m";

fn ring_bytes(text: &str) -> Result<u32> {
    let bytes: u32 = text.parse().context("a number of bytes")?;
    ensure!(
        bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes),
        "a power of two from 4096 to {}",
        1u32 << 30
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2h").unwrap(), Duration::from_hours(2));
        assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
        assert_eq!(duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("10 minutes").unwrap(), Duration::from_mins(10));
        for (bad, message) in [
            ("5x", "not a time: use ms, s, m or h"),
            ("1d", "not a time: use ms, s, m or h"),
            ("1h30", "not a time: use ms, s, m or h"),
            ("30 ", "not a time: use ms, s, m or h"),
            ("0ms", "not longer than zero: use a time such as 500ms"),
            ("1s ago", "not longer than zero: use a time such as 500ms"),
            ("9000000000000h", "too long: use a time such as 500ms"),
        ] {
            let error = duration(bad).unwrap_err().to_string();
            assert!(error.starts_with(message), "{bad}: {error}");
        }
        for bad in [
            "",
            "s",
            "0",
            "5x",
            "-1s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ring_sizes() {
        assert_eq!(ring_bytes("4096").unwrap(), 4096);
        for bad in ["0", "4095", "5000", "4294967296", "x"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
