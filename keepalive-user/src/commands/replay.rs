//! `keepalive replay` and `keepalive report`: a recording, replayed on any machine and without root.

use std::{
    io::{self, BufWriter, IsTerminal, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::tz::TimeZone;

use super::outputs;
use crate::{
    cli::{Replay, Report},
    core::{
        exit::{Exit, is_broken_pipe},
        pipeline::{Output, Wanted},
        replay::{Recording, ReplayStats, play},
    },
    machine::{files, recorder::open_all, terminal},
    output::{Format, Lines},
};

/// Progress is printed after this time, and then at this interval.
const PROGRESS: Duration = Duration::from_millis(500);

/// Runs `keepalive replay`.
pub fn run(arguments: &Replay) -> Result<Exit> {
    if let Some(output) = &arguments.output {
        files::check_output(output, &arguments.files)?;
    }
    let wanted = Wanted {
        pid: arguments.select.pid,
        count: arguments.count,
        filter: arguments.select.filter()?,
        ..Wanted::default()
    };
    let recordings = open_all(&arguments.files)?;
    let outputs = if arguments.check {
        Vec::new()
    } else {
        vec![lines(arguments.json, arguments.output.as_deref())?]
    };
    match replay(recordings, wanted, outputs) {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        Err(error) => Err(error),
        Ok(stats) => {
            if arguments.check {
                print(&stats).context("cannot write")?;
                if stats.cut.is_some() {
                    return Ok(Exit::Failure);
                }
            }
            Ok(Exit::Success)
        }
    }
}

/// Runs `keepalive report`.
pub fn report(arguments: &Report) -> Result<Exit> {
    let wanted = Wanted {
        pid: arguments.select.pid,
        filter: arguments.select.filter()?,
        ..Wanted::default()
    };
    // First, so that a bad path fails before anything is read.
    files::refuse_same(&arguments.output, &arguments.files)?;
    let report = outputs::report(&arguments.output, arguments.socket.clone(), arguments.force)?;
    let recordings = open_all(&arguments.files)?;
    replay(recordings, wanted, vec![report])?;
    Ok(Exit::Success)
}

/// Replays, and warns if the recording is incomplete.
fn replay(
    recordings: Vec<Recording<Box<dyn Read>>>,
    wanted: Wanted,
    outputs: Vec<Box<dyn Output>>,
) -> Result<ReplayStats> {
    let mut progress = Progress::new(&recordings);
    let outcome = play(recordings, wanted, outputs, &mut |bytes| {
        progress.show(bytes);
    });
    progress.clear();
    let stats = outcome?;
    if let Some(name) = &stats.continued {
        log::warn!("{name} continues an earlier file of the trace: its events are not replayed");
    }
    if let Some(cut) = &stats.cut {
        log::warn!("{cut}; replayed up to there");
    }
    Ok(stats)
}

/// Lines on standard output, in colour if that is a terminal that wants it, or in a file.
fn lines(json: bool, path: Option<&Path>) -> Result<Box<dyn Output>> {
    let (sink, colour): (Box<dyn Write>, bool) = match path {
        None => (Box::new(io::stdout()), terminal::wants_colour()),
        Some(path) => (Box::new(files::overwrite(path)?), false),
    };
    Ok(Box::new(Lines {
        format: Format::of(json, colour, TimeZone::system()),
        writer: BufWriter::with_capacity(1 << 16, sink),
    }))
}

fn print(stats: &ReplayStats) -> io::Result<()> {
    writeln!(
        io::stdout().lock(),
        "{} records in {} bytes, {}",
        stats.records,
        stats.bytes,
        match (&stats.cut, &stats.continued) {
            (Some(cut), _) => cut.clone(),
            (None, Some(name)) => format!("{name} continues an earlier file"),
            (None, None) => "whole".to_owned(),
        }
    )
}

/// The progress of a long replay, on a terminal.
struct Progress {
    total: Option<u64>,
    since: Instant,
    shown: bool,
}

impl Progress {
    fn new<R>(recordings: &[Recording<R>]) -> Self {
        let total: Option<u64> = recordings.iter().map(|recording| recording.length).sum();
        Self {
            total: total.filter(|_| io::stderr().is_terminal() && !io::stdout().is_terminal()),
            since: Instant::now(),
            shown: false,
        }
    }

    fn show(&mut self, bytes: u64) {
        let Some(total) = self.total.filter(|&total| total > 0) else {
            return;
        };
        if self.since.elapsed() < PROGRESS {
            return;
        }
        self.since = Instant::now();
        self.shown = true;
        let percent = bytes.saturating_mul(100) / total;
        let filled = usize::try_from(percent / 4).unwrap_or(25).min(25);
        eprint!("\r[{:25}] {percent} %", "=".repeat(filled));
        // A write error cannot be reported.
        let _ = io::stderr().flush();
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r{:35}\r", "");
        }
    }
}
