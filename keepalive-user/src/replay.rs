//! # `keepalive replay`
//!
//! A recording, told again: what `trace` printed when it was made, byte for byte, on any machine
//! and without root.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::Filter;

use crate::{
    attribution::Attribution,
    cli::{Replay, Report},
    clock::Clock,
    event::{Finding, Lost, LostWhere, Missed, Process},
    exit::{Exit, Refusal, is_broken_pipe},
    files,
    output::{self, Output},
    pipeline::{Pipeline, Sink, Wanted},
    recording::{self, End, Frame, Header, Reader},
};

/// Progress is shown when this has passed, and as often.
const PROGRESS: Duration = Duration::from_millis(500);
/// Frames between two looks at the clock.
const FRAMES: u64 = 1 << 14;

/// Runs the command.
pub fn run(arguments: &Replay) -> Result<Exit> {
    let filter = arguments
        .select
        .filter()
        .map_err(|error| Refusal::new(Exit::Usage, format!("{error:#}")))?;
    if let Some(output) = &arguments.output {
        recording::check_output(output, &arguments.files)?;
    }
    let recordings = open_all(&arguments.files)?;
    let outputs = if arguments.check {
        Vec::new()
    } else {
        vec![output::open(arguments.json, arguments.output.as_deref())?]
    };
    let own = Wanted {
        pid: arguments.select.pid,
        count: arguments.count,
        filter,
    };
    match play(recordings, own, outputs) {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        Err(error) => Err(error),
        Ok(told) => {
            if arguments.check {
                told.print().context("cannot write")?;
            }
            Ok(Exit::Success)
        }
    }
}

/// Runs `keepalive report`: a replay that is looked at.
pub fn report(arguments: &Report) -> Result<Exit> {
    let filter = arguments
        .select
        .filter()
        .map_err(|error| Refusal::new(Exit::Usage, format!("{error:#}")))?;
    // First, so that a bad path fails before anything is read.
    files::refuse_same(&arguments.output, &arguments.files)?;
    let socket = arguments.socket.clone();
    let report = output::Report::open(&arguments.output, socket, arguments.force)?;
    let recordings = open_all(&arguments.files)?;
    let own = Wanted {
        pid: arguments.select.pid,
        count: None,
        filter,
    };
    play(recordings, own, vec![Output::Report(Box::new(report))])?;
    Ok(Exit::Success)
}

/// A recording and its name.
pub struct Recording<R> {
    pub name: String,
    pub reader: Reader<R>,
    /// Bytes, as far as that is known.
    pub length: Option<u64>,
}

/// Opens recordings, and puts those of one trace in order.
///
/// # Errors
/// If one is no recording, or they are of several traces.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Recording<Box<dyn Read>>>> {
    let mut all = paths
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|recording| recording.reader.header.sequence);
    for pair in all.windows(2) {
        let [one, other] = pair else { continue };
        if !other.reader.header.continues(&one.reader.header) {
            return Err(Refusal::new(
                Exit::Usage,
                format!(
                    "{} does not go on where {} ends: give the files of one trace, none left out",
                    other.name, one.name
                ),
            )
            .into());
        }
    }
    Ok(all)
}

fn open(path: &Path) -> Result<Recording<Box<dyn Read>>> {
    let name = path.display().to_string();
    let (inner, length): (Box<dyn Read>, _) = if path == Path::new("-") {
        (Box::new(io::stdin().lock()), None)
    } else {
        let file = files::open(path)?;
        let length = file.metadata().ok().map(|metadata| metadata.len());
        (Box::new(file), length)
    };
    let reader = Reader::new(inner).with_context(|| name.clone())?;
    Ok(Recording {
        name,
        reader,
        length,
    })
}

/// What a replay amounted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub records: u64,
    pub bytes: u64,
    /// Where the last file ended, if that was not the end of the trace.
    pub cut: Option<String>,
}

impl Told {
    fn print(&self) -> io::Result<()> {
        writeln!(
            io::stdout().lock(),
            "{} records in {} bytes, {}",
            self.records,
            self.bytes,
            self.cut.as_deref().unwrap_or("whole")
        )
    }
}

/// Tells recordings again, as far as they go.
///
/// # Errors
/// If a file is damaged, after all that was before the damage; or if an output fails.
pub fn play<R: Read>(
    recordings: Vec<Recording<R>>,
    own: Wanted,
    outputs: Vec<Output<Sink>>,
) -> Result<Told> {
    let Some(first) = recordings.first() else {
        return Ok(Told::default());
    };
    let Header {
        start, pid, count, ..
    } = first.reader.header.clone();
    let wanted = Wanted {
        pid: own.pid.or(pid),
        count: own.count.or(count),
        ..own
    };
    let mut player = Player {
        told: Told::default(),
        last: start.when.monotonic_ns,
        frames: 0,
        undecoded: 0,
        progress: Progress::new(&recordings),
        pipeline: Pipeline::start(start, Attribution::told(), wanted, outputs, None)?,
        filtered: own.filter != Filter::default(),
    };
    let mut damage = Ok(());
    for recording in recordings {
        damage = player.file(recording);
        if damage.is_err() || player.pipeline.is_done() {
            break;
        }
    }
    let reported = player.report_undecoded();
    player.progress.clear();
    reported?;
    if let Some(cut) = player.told.cut.as_ref().filter(|_| damage.is_ok()) {
        log::warn!("{cut}: told up to there");
    }
    let when = player.pipeline.clock().at(player.last);
    player.pipeline.finish(when)?;
    damage.map(|()| player.told)
}

struct Player {
    pipeline: Pipeline,
    told: Told,
    /// The latest moment that was told of, CLOCK_MONOTONIC.
    last: u64,
    frames: u64,
    /// Frames that could not be decoded since that was last reported.
    undecoded: u64,
    progress: Progress,
    filtered: bool,
}

impl Player {
    fn file<R: Read>(&mut self, mut recording: Recording<R>) -> Result<()> {
        let clock = self.pipeline.clock();
        let reader = &mut recording.reader;
        while !self.pipeline.is_done() {
            let Some(frame) = reader.frame().with_context(|| recording.name.clone())? else {
                break;
            };
            self.frame(frame, &clock)?;
            self.frames += 1;
            if self.frames.is_multiple_of(FRAMES) {
                self.progress.show(self.told.bytes + reader.position());
            }
        }
        self.told.bytes += reader.position();
        self.told.cut = match reader.end() {
            _ if self.pipeline.is_done() => None,
            End::Whole => None,
            End::Continued => Some(format!("{} goes on in another file", recording.name)),
            End::Cut(byte) => Some(format!(
                "{} ends at byte {byte}, without an end",
                recording.name
            )),
        };
        Ok(())
    }

    fn frame(&mut self, frame: Frame<'_>, clock: &Clock) -> Result<()> {
        if !matches!(frame, Frame::Undecodable(_)) {
            self.report_undecoded()?;
        }
        let attribution = &mut self.pipeline.attribution;
        match frame {
            Frame::Record(record) => {
                self.told.records += 1;
                self.last = self.last.max(record.after.time);
                self.pipeline.record(record)?;
            }
            Frame::Seed { id, time } => self.pipeline.seed(&id, time, None)?,
            Frame::Process { inode, process } => {
                let process = process.map(|(pid, comm)| Process {
                    pid,
                    comm: comm.to_owned(),
                });
                attribution.tell_process(inode, process);
            }
            Frame::Cgroup { id, path } => attribution.tell_cgroup(id, path),
            Frame::Lost {
                place,
                count,
                probes,
                time,
            } => {
                self.last = self.last.max(time);
                self.pipeline.lost(Lost {
                    when: clock.at(time),
                    count,
                    place,
                    probes,
                })?;
            }
            Frame::Missed {
                place,
                count,
                since,
                time,
            } => {
                self.last = self.last.max(time);
                self.pipeline.missed(Missed {
                    when: clock.at(time),
                    count,
                    since: clock.at(since),
                    place,
                })?;
            }
            Frame::Finding(json) => {
                let finding: Option<Finding> = serde_json::from_str(json).ok();
                match finding {
                    None => self.undecoded += 1,
                    Some(finding) if !self.filtered => self.pipeline.finding(finding)?,
                    Some(_) => {}
                }
            }
            Frame::Undecodable(unknown) => {
                log::debug!("a frame is passed over: {unknown}");
                self.undecoded += 1;
            }
            Frame::Continued => {}
            Frame::End { time } => self.last = time,
        }
        Ok(())
    }

    /// Reports frames that could not be decoded, those in a row together.
    fn report_undecoded(&mut self) -> Result<()> {
        let count = std::mem::take(&mut self.undecoded);
        if count == 0 {
            return Ok(());
        }
        let when = self.pipeline.clock().at(self.last);
        self.pipeline.lost(Lost {
            when,
            count,
            place: LostWhere::Decode,
            probes: 0,
        })
    }
}

/// How far a long replay is, on a terminal.
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
        // Nowhere to complain.
        let _ = io::stderr().flush();
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r{:35}\r", "");
        }
    }
}

/// Reads whatever these bytes are as a recording and shows it nowhere: for fuzzing and benchmarks.
///
/// # Errors
/// What is wrong with them.
pub fn fold(bytes: &[u8]) -> Result<u64> {
    fold_into(bytes, vec![Output::json(Box::new(io::sink()) as Sink)])
}

/// As [`fold`], into these outputs.
///
/// # Errors
/// What is wrong with the bytes, or with an output.
pub fn fold_into(bytes: &[u8], outputs: Vec<Output<Sink>>) -> Result<u64> {
    let recording = Recording {
        name: "recording".to_owned(),
        reader: Reader::new(bytes)?,
        length: None,
    };
    Ok(play(vec![recording], Wanted::default(), outputs)?.records)
}
