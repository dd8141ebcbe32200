//! What was not observed: lost on the way, or missed by the programs.

use schemars::JsonSchema;
use serde::Serialize;
use strum::EnumIter;

use super::When;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, EnumIter)]
#[serde(rename_all = "snake_case")]
pub enum LostWhere {
    /// The ring buffer was full.
    Ring,
    /// A record that this version cannot decode.
    Decode,
    /// A table was full: the tracker's, whose least recently seen socket was dropped, or the
    /// programs' own of sockets reported with keepalive off, whose end will not be reported.
    Tracker,
    /// A program could not take its per-CPU scratch buffer.
    Scratch,
    /// A program could not read kernel memory that must be readable.
    Unreadable,
    /// The rate exceeded the limit of the recording (`--record-rate`); the trace itself has these events.
    Recording,
    /// The kernel did not run a program because the same program was already running on that CPU
    /// (`bpf_prog_inc_misses_counter`).
    Recursion,
    /// Lines that the reader of standard output did not take in time.
    Output,
    /// Events that `-p` could not filter, because the owner of the socket is unresolved.
    Filter,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Lost {
    #[serde(flatten)]
    pub when: When,
    pub count: u64,
    #[serde(rename = "where")]
    pub place: LostWhere,
    /// Keepalive probes among them that the kernel counted (TCPKeepAlive).
    pub probes: u64,
}

/// Everything that was lost, by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Losses {
    /// Records that did not fit in the full ring buffer.
    pub ring: u64,
    /// Records that could not be decoded.
    pub decode: u64,
    /// Sockets dropped because a table was full: the tracker's, or the programs' own of sockets
    /// reported with keepalive off.
    pub tracker: u64,
    /// Observations dropped because another program took over the per-CPU scratch buffer.
    pub scratch: u64,
    /// Observations dropped because kernel memory could not be read.
    pub unreadable: u64,
    /// Records left out of the recording.
    pub recording: u64,
    /// Program runs the kernel skipped because the program was already running on that CPU.
    pub recursion: u64,
    /// Lines that the reader of standard output did not take.
    pub output: u64,
    /// Events that `-p` left out because the owner of the socket is unresolved.
    pub filter: u64,
    /// Keepalive probes among the records that were lost.
    pub probes: u64,
    /// Events whose owner could not be resolved.
    pub owner: u64,
}

impl Losses {
    /// The counter of one place.
    pub fn at(&mut self, place: LostWhere) -> &mut u64 {
        match place {
            LostWhere::Ring => &mut self.ring,
            LostWhere::Decode => &mut self.decode,
            LostWhere::Tracker => &mut self.tracker,
            LostWhere::Scratch => &mut self.scratch,
            LostWhere::Unreadable => &mut self.unreadable,
            LostWhere::Recording => &mut self.recording,
            LostWhere::Recursion => &mut self.recursion,
            LostWhere::Output => &mut self.output,
            LostWhere::Filter => &mut self.filter,
        }
    }

    /// Adds what a `lost` event reports.
    pub fn add(&mut self, lost: &Lost) {
        let total = self.at(lost.place);
        *total = total.saturating_add(lost.count);
        self.probes = self.probes.saturating_add(lost.probes);
    }
}

/// The kernel acted and no program saw it, or its record was lost (then it is in `lost` as well, except
/// for probes). Inferred from the observations before and after:
/// `icsk_probes_out` jumped, an armed deadline passed, a socket disappeared.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Missed {
    #[serde(flatten)]
    pub when: When,
    pub count: u64,
    /// The previous observation of these sockets: the earliest time at which it can have happened.
    pub since: When,
    #[serde(rename = "where")]
    pub place: MissedWhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema, EnumIter)]
#[serde(rename_all = "snake_case")]
pub enum MissedWhere {
    /// A keepalive probe that the kernel counted.
    Probe,
    /// A zero-window probe that the kernel counted.
    WindowProbe,
    /// A run of the keepalive timer that sent no probe, or for which it is unknown whether it did.
    Timer,
    /// The end of a socket.
    Close,
    /// Sockets whose timer was due when the trace ended and that could not be read again: their unseen
    /// actions, if any, are not counted.
    Unread,
}

/// Everything that was missed, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct MissedCounts {
    /// Keepalive probes: with those of the `timer` events and `lost.probes`, all that the kernel
    /// counted (TCPKeepAlive) of these sockets.
    pub probe: u64,
    pub window_probe: u64,
    pub timer: u64,
    pub close: u64,
    /// Sockets that could not be read again at the end: what was missed for them is unknown.
    pub unread: u64,
}

impl MissedCounts {
    /// A count of one place.
    pub fn of(place: MissedWhere, count: u64) -> Self {
        let mut counts = Self::default();
        *counts.at(place) = count;
        counts
    }

    /// The counter of one place.
    pub fn at(&mut self, place: MissedWhere) -> &mut u64 {
        match place {
            MissedWhere::Probe => &mut self.probe,
            MissedWhere::WindowProbe => &mut self.window_probe,
            MissedWhere::Timer => &mut self.timer,
            MissedWhere::Close => &mut self.close,
            MissedWhere::Unread => &mut self.unread,
        }
    }

    /// Adds what a `missed` event reports.
    pub fn add(&mut self, missed: &Missed) {
        let total = self.at(missed.place);
        *total = total.saturating_add(missed.count);
    }

    /// Whether anything was missed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
