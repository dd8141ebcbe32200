//! Arguments of `trace`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Loading, Recording, Selection, values::duration};

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
    /// Report answers when they arrive, not within a second: hooks tcp_ack, which is hot
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
