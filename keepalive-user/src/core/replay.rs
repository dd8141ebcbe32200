//! # Replay
//!
//! A recording, replayed: what `trace` printed when it was made, byte for byte, on any machine.

use std::io::Read;

use anyhow::{Context, Result};
use keepalive_ebpf::Filter;

use super::{
    event::{Lost, LostWhere, Missed, Process},
    format::plural,
    owners::Recorded,
    pipeline::{Output, Pipeline, Wanted},
    recording::{FileEnd, Frame, Header, HostFrame, Reader},
};

/// Frames between two progress reports.
const FRAMES: u64 = 1 << 14;

/// A recording and its name.
pub struct Recording<R> {
    pub name: String,
    pub reader: Reader<R>,
    /// Size in bytes, if known.
    pub length: Option<u64>,
}

/// Counters of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayStats {
    pub records: u64,
    pub bytes: u64,
    /// The first file, if the trace began in earlier ones.
    pub continued: Option<String>,
    /// Where a file ended, if that was neither the end of the trace nor where the next one begins.
    pub cut: Option<String>,
}

/// Replays recordings, each up to its end or the point of damage.
///
/// # Errors
/// If a file is damaged, after everything before the damage was replayed; or if an output fails.
pub fn play<R: Read>(
    recordings: Vec<Recording<R>>,
    own: Wanted,
    outputs: Vec<Box<dyn Output>>,
    progress: &mut dyn FnMut(u64),
) -> Result<ReplayStats> {
    let Some(first) = recordings.first() else {
        return Ok(ReplayStats::default());
    };
    let Header {
        start,
        pid,
        count,
        sequence,
        ..
    } = first.reader.header.clone();
    let continued = (sequence > 0).then(|| first.name.clone());
    let wanted = Wanted {
        pid: own.pid.or(pid),
        count: own.count.or(count),
        ..own
    };
    let mut player = Player {
        stats: ReplayStats {
            continued,
            ..ReplayStats::default()
        },
        last: start.when.monotonic_ns,
        frames: 0,
        undecoded: 0,
        pipeline: Pipeline::start(start, Recorded::default(), wanted, outputs, None)?,
        filtered: own.filter != Filter::default(),
        is_shortened: own.count.is_some(),
    };
    let mut damage = Ok(());
    let last = recordings.len().saturating_sub(1);
    let gaps: Vec<_> = recordings.windows(2).map(gap).collect();
    let gaps = [None].into_iter().chain(gaps);
    for ((number, recording), gap) in recordings.into_iter().enumerate().zip(gaps) {
        player.stats.cut = player.stats.cut.take().or(gap);
        damage = player.file(recording, number == last, progress);
        if damage.is_err() || player.has_enough() {
            break;
        }
    }
    player.report_undecoded()?;
    let when = player.pipeline.clock().at(player.last);
    player.pipeline.cut = match &damage {
        Ok(()) => player.stats.cut.clone(),
        Err(error) => Some(format!("{error:#}")),
    };
    player.pipeline.finish(when)?;
    damage.map(|()| player.stats)
}

/// Files that are missing between two.
fn gap<R>(pair: &[Recording<R>]) -> Option<String> {
    let [one, other] = pair else { return None };
    let missing = other.reader.header.missing_after(&one.reader.header)?;
    let files = plural(missing.into(), "file");
    (missing > 0).then(|| format!("{files} between {} and {} missing", one.name, other.name))
}

struct Player {
    pipeline: Pipeline<Recorded>,
    stats: ReplayStats,
    /// The latest time replayed so far, CLOCK_MONOTONIC.
    last: u64,
    frames: u64,
    /// Frames that could not be decoded since the last report of them.
    undecoded: u64,
    filtered: bool,
    /// The number of events to replay is not that of the trace.
    is_shortened: bool,
}

impl Player {
    fn file<R: Read>(
        &mut self,
        mut recording: Recording<R>,
        is_last: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let reader = &mut recording.reader;
        // A trace that ended by its own count has the time of its end behind the last event.
        while !self.has_enough() {
            let Some(frame) = reader.frame().with_context(|| recording.name.clone())? else {
                break;
            };
            self.frame(frame)?;
            self.frames += 1;
            if self.frames.is_multiple_of(FRAMES) {
                progress(self.stats.bytes + reader.position());
            }
        }
        self.stats.bytes += reader.position();
        if recording.length.is_some() && !self.has_enough() {
            let checked = reader.nothing_follows();
            checked.with_context(|| recording.name.clone())?;
        }
        let cut = match reader.end() {
            _ if self.has_enough() => None,
            FileEnd::Whole => None,
            FileEnd::Continued if !is_last => None,
            FileEnd::Continued => Some(format!("{} continues in another file", recording.name)),
            FileEnd::Cut(byte) => Some(format!("{} is truncated at byte {byte}", recording.name)),
        };
        // One in the middle is not made good by the files after it.
        self.stats.cut = self.stats.cut.take().or(cut);
        Ok(())
    }

    /// Whether all events to replay were replayed, and the rest of the recording is of no interest.
    fn has_enough(&self) -> bool {
        self.is_shortened && self.pipeline.is_done()
    }

    fn frame(&mut self, frame: Frame<'_>) -> Result<()> {
        let clock = self.pipeline.clock();
        if !matches!(frame, Frame::Undecodable(_)) {
            self.report_undecoded()?;
        }
        let owners = &mut self.pipeline.owners;
        match frame {
            Frame::Record(record) => {
                self.stats.records += 1;
                self.last = self.last.max(record.after.time);
                self.pipeline.record(record)?;
            }
            Frame::Seed { id, time } => self.pipeline.seed(&id, time, None)?,
            Frame::Process { inode, process } => {
                let process = process.map(|(pid, comm)| Process {
                    pid,
                    comm: comm.to_owned(),
                });
                owners.set_process(inode, process);
            }
            Frame::Cgroup { id, path } => owners.set_cgroup(id, path),
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
            Frame::Host(host) => self.host(host)?,
            Frame::Finding(json) => self.finding(json)?,
            Frame::Undecodable(unknown) => {
                log::debug!("a frame is skipped: {unknown}");
                self.undecoded += 1;
            }
            Frame::Continued => {}
            Frame::End { time } => self.last = time,
        }
        Ok(())
    }

    fn host(&mut self, frame: HostFrame) -> Result<()> {
        self.last = self.last.max(frame.time());
        self.pipeline.host_frame(frame)
    }

    fn finding(&mut self, json: &str) -> Result<()> {
        match serde_json::from_str(json) {
            Ok(_) if self.filtered => Ok(()),
            Ok(finding) => self.pipeline.finding(finding),
            Err(_) => {
                self.undecoded += 1;
                Ok(())
            }
        }
    }

    /// Reports frames that could not be decoded, consecutive ones together.
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
