//! One socket: who it is, what it did in numbers, and its events, as many as there is room for.

use std::collections::VecDeque;

use super::{
    mark::Mark,
    phrase::Phrase,
    time::{Scale, fold},
};
use crate::{
    core::{
        event::{Cause, Closed, Event, Keepalive, Socket, SocketEvent, Totals},
        words::plural,
    },
    output::words::{certificate, owner, settings},
};

/// First events that are kept; the rest of the room is for the last ones.
const HEAD: usize = 8;
/// Zero-window phases that are told apart.
const PHASES: usize = 64;

/// What became of a socket, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Ended by a timer.
    Killed,
    /// Ended by a reset, an abort, a network error.
    Cut,
    /// Open, and something is or was wrong.
    Troubled,
    Open,
    Closed,
}

impl Fate {
    pub const ALL: [Self; 5] = [
        Self::Killed,
        Self::Cut,
        Self::Troubled,
        Self::Open,
        Self::Closed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Cut => "cut",
            Self::Troubled => "troubled",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Killed => "killed by a timer",
            Self::Cut => "reset or aborted",
            Self::Troubled => "open, in trouble",
            Self::Open => "open and well",
            Self::Closed => "closed",
        }
    }

    /// The mark that stands for it.
    pub fn mark(self) -> Mark {
        match self {
            Self::Killed => Mark::Killed,
            Self::Cut => Mark::Cut,
            Self::Troubled => Mark::AnotherProbe,
            Self::Open => Mark::Answer,
            Self::Closed => Mark::Closed,
        }
    }
}

/// An event that is kept.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Nanoseconds since the trace began.
    pub at: u64,
    pub mark: Mark,
    /// Silence of the peer then, milliseconds.
    pub silence_ms: Option<u64>,
    pub rtt_us: Option<u64>,
    pub words: Phrase,
}

/// A time in which the peer took no data, nanoseconds since the trace began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    pub from: u64,
    pub to: u64,
    /// By when another probe must have come, if it goes on.
    due: u64,
}

/// Longest path of a cgroup that is shown, bytes.
const PATH: usize = 512;

/// A path, without its beginning where it is too long: the end tells paths apart.
fn shortened(path: &str) -> String {
    if path.len() <= PATH {
        return path.to_owned();
    }
    let start = path.ceil_char_boundary(path.len() - PATH);
    format!("…{}", &path[start..])
}

#[derive(Clone, Debug)]
pub struct Story {
    pub socket: Socket,
    pub owner: String,
    pub pid: Option<u32>,
    pub cgroup: Option<String>,
    pub container: Option<String>,
    pub keepalive: Keepalive,
    /// First and last event, nanoseconds since the trace began.
    pub from: u64,
    pub to: u64,
    /// It was left out for a while, when there were too many: its numbers are since then.
    pub is_partial: bool,
    pub end: Option<Closed>,
    pub timers: u64,
    pub probes: u64,
    pub answers: u64,
    pub not_sent: u64,
    /// Timer runs in a row that sent no probe because of data, and the last one's mark.
    pub suppressed: (u64, Mark),
    /// Unanswered probes now.
    pub unanswered: u32,
    /// A probe is out, and may still be answered.
    waiting: bool,
    pub worst_rtt_us: Option<u64>,
    pub longest_silence_ms: Option<u64>,
    /// Silence from which the kernel ends it, milliseconds, as it was last said.
    pub limit_ms: Option<u64>,
    pub phases: Vec<Phase>,
    /// Whether the last of them goes on.
    shut: bool,
    /// The worst mark of each bucket of time.
    pub strip: Vec<Option<Mark>>,
    head: Vec<Moment>,
    tail: VecDeque<Moment>,
    /// Events between head and tail that there was no room for.
    pub left_out: u64,
}

impl Story {
    pub fn new<T>(event: &SocketEvent<T>, since: u64, is_partial: bool) -> Self {
        Self {
            socket: event.socket.clone(),
            owner: owner(event.process.as_ref()),
            pid: None,
            cgroup: None,
            container: None,
            keepalive: event.keepalive,
            from: since,
            to: since,
            is_partial,
            end: None,
            timers: 0,
            probes: 0,
            answers: 0,
            not_sent: 0,
            suppressed: (0, Mark::DataInFlight),
            unanswered: 0,
            waiting: false,
            worst_rtt_us: None,
            longest_silence_ms: None,
            limit_ms: None,
            phases: Vec::new(),
            shut: false,
            strip: Vec::new(),
            head: Vec::new(),
            tail: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Who it is, as far as that is known by now.
    pub fn identify<T>(&mut self, event: &SocketEvent<T>) {
        if self.socket != event.socket {
            self.socket = event.socket.clone();
        }
        self.keepalive = event.keepalive;
        if let Some(process) = &event.process {
            self.owner = owner(Some(process));
            self.pid = Some(process.pid);
        }
        if let Some(cgroup) = &event.cgroup {
            self.cgroup = cgroup.path.as_deref().map(shortened);
        }
        self.container = event.container_id.as_deref().map(str::to_owned);
    }

    /// Counts one of its events.
    pub fn count(&mut self, event: &Event, since: u64) {
        self.from = self.from.min(since);
        self.to = self.to.max(since);
        match event {
            Event::Timer(event) => {
                let run = &event.what;
                let mark = Mark::of_timer(run);
                self.timers += 1;
                self.probed(run.attempt.is_some());
                self.not_sent += u64::from(mark == Mark::NotSent);
                self.suppressed = match mark {
                    Mark::DataInFlight | Mark::DataUnsent => (self.suppressed.0 + 1, mark),
                    _ => (0, mark),
                };
                self.unanswered = run.probes_out.after;
                self.shut &= mark == Mark::DataUnsent && self.window_lasts(since);
                self.silent(run.idle_ms);
                if let (Some(idle), Some(death)) = (run.idle_ms, &run.death) {
                    self.limit_ms = Some(idle.saturating_add(death.in_ms));
                }
            }
            Event::WindowProbe(event) => {
                self.probed(true);
                self.not_sent += u64::from(event.what.sent == Some(false));
                self.unanswered = event.what.probes_out.after;
                self.window_shut(since, event.what.next_ms);
            }
            Event::Answer(event) => {
                self.answers += 1;
                self.waiting = false;
                self.unanswered = 0;
                self.worst_rtt_us = self.worst_rtt_us.max(event.what.rtt_us);
            }
            Event::Closed(event) => {
                self.unanswered = event.what.probes_out;
                self.silent(event.what.idle_ms);
                self.shut = self.window_lasts(since);
                self.settle_totals(&event.what.totals);
                self.end = Some(event.what.clone());
            }
            Event::Armed(_)
            | Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::End(_) => {}
        }
    }

    /// The certificate knows them, whatever was seen here.
    fn settle_totals(&mut self, totals: &Totals) {
        if self.is_partial {
            self.timers = totals.timers;
            self.probes = totals.keepalive_probes + totals.window_probes;
            self.answers = totals.keepalive_answers + totals.window_answers;
            self.worst_rtt_us = totals.worst_rtt_us;
        }
    }

    fn probed(&mut self, probed: bool) {
        self.probes += u64::from(probed);
        self.waiting |= probed;
    }

    fn silent(&mut self, idle_ms: Option<u64>) {
        self.longest_silence_ms = self.longest_silence_ms.max(idle_ms);
    }

    /// A zero-window probe: the phase begins or goes on.
    fn window_shut(&mut self, since: u64, next_ms: Option<u64>) {
        if !self.window_lasts(since) && self.phases.len() < PHASES {
            self.phases.push(Phase {
                from: since,
                to: since,
                due: since,
            });
        }
        // Timers are late by up to an eighth.
        let wait = next_ms.unwrap_or(0).saturating_mul(1_250_000);
        if let Some(phase) = self.phases.last_mut() {
            phase.to = since;
            phase.due = since.saturating_add(wait).saturating_add(1_000_000_000);
        }
        self.shut = next_ms.is_some();
    }

    /// Whether the last phase reaches until now; if so it does.
    fn window_lasts(&mut self, since: u64) -> bool {
        let last = self.phases.last_mut();
        let lasting = last.filter(|phase| self.shut && phase.due >= since);
        lasting
            .map(|phase| phase.to = phase.to.max(since))
            .is_some()
    }

    /// The trace ended.
    pub fn settle(&mut self, since: u64) {
        self.shut = self.window_lasts(since);
    }

    /// Keeps an event, if need be instead of an older one.
    pub fn keep(&mut self, moment: Moment, bucket: usize, room: usize) {
        if self.strip.len() <= bucket {
            self.strip.resize(bucket + 1, None);
        }
        self.strip[bucket] = self.strip[bucket].max(Some(moment.mark));
        if self.head.len() < HEAD {
            self.head.push(moment);
        } else {
            self.tail.push_back(moment);
        }
        self.shrink(room);
    }

    /// Leaves out what there is no room for.
    pub fn shrink(&mut self, room: usize) {
        while self.tail.len() > room.saturating_sub(HEAD) {
            self.tail.pop_front();
            self.left_out += 1;
        }
    }

    /// The events that are kept: the first, and the last.
    pub fn kept(&self) -> (&[Moment], &VecDeque<Moment>) {
        (&self.head, &self.tail)
    }

    pub fn moments(&self) -> impl Iterator<Item = &Moment> {
        self.head.iter().chain(&self.tail)
    }

    pub fn fold(&mut self) {
        fold(&mut self.strip, Ord::max);
    }

    /// Probes without an answer, but for the one that an open socket still waits for.
    pub fn lost(&self) -> u64 {
        let waiting = u64::from(self.waiting && self.end.is_none());
        self.probes.saturating_sub(self.answers + waiting)
    }

    pub fn fate(&self) -> Fate {
        match &self.end {
            Some(end) => match Mark::of_cause(end.cause) {
                Mark::Killed => Fate::Killed,
                Mark::Cut => Fate::Cut,
                _ => Fate::Closed,
            },
            None if self.trouble().is_some() => Fate::Troubled,
            None => Fate::Open,
        }
    }

    /// What is wrong with an open socket, in few words, and in a sentence about such sockets.
    fn trouble(&self) -> Option<(String, &'static str)> {
        let probes = |number: u64| plural(number, "probe");
        Some(if self.shut {
            ("zero window".to_owned(), "with a peer that takes no data")
        } else if self.unanswered > 1 {
            let unanswered = format!("{} unanswered", probes(self.unanswered.into()));
            (unanswered, "open, with probes unanswered at the end")
        } else if self.not_sent > 0 {
            let not_sent = format!("{} not sent", probes(self.not_sent));
            (not_sent, "whose probes did not leave this host")
        } else if let (2.., Mark::DataUnsent) = self.suppressed {
            let said = "unprobed: data waits, the peer takes none";
            ("data waiting".to_owned(), said)
        } else if let (2.., _) = self.suppressed {
            let said = "unprobed: data is unacknowledged, retransmission decides";
            ("data unacknowledged".to_owned(), said)
        } else if self.lost() > 0 {
            let lost = format!("{} lost", probes(self.lost()));
            (lost, "with probes lost, and heard again")
        } else {
            return None;
        })
    }

    /// What is wrong with an open socket, as it is said of several.
    pub fn ill(&self) -> Option<&'static str> {
        self.trouble().map(|(_, said)| said)
    }

    /// What became of it, in few words.
    pub fn verdict(&self) -> String {
        let Some(end) = &self.end else {
            return match self.trouble() {
                Some((trouble, _)) => format!("open: {trouble}"),
                None => "open".to_owned(),
            };
        };
        match end.cause {
            Cause::KeepaliveProbes => "killed: probes unanswered",
            Cause::KeepaliveUserTimeout => "killed: probes and user timeout",
            Cause::RetransmitTimeout => "killed: retransmissions",
            Cause::RetransmitUserTimeout => "killed: data and user timeout",
            Cause::WindowProbeTimeout => "killed: zero window",
            Cause::WindowProbeUserTimeout => "killed: window and user timeout",
            Cause::PeerReset => "reset by the peer",
            Cause::PeerFin => "closed by the peer",
            Cause::LocalClose => "closed by this side",
            Cause::LocalAbort => "aborted by this side",
            Cause::ConnectTimeout => "never connected",
            Cause::NetworkError => "network error",
            Cause::Unknown => "ended, unseen",
        }
        .to_owned()
    }

    /// The death certificate, in words.
    pub fn certificate(&self, scale: &Scale) -> Option<String> {
        let end = self.end.as_ref()?;
        let heard = match end.idle_ms {
            Some(idle) => scale.clock((self.to / 1_000_000).saturating_sub(idle)),
            None => "never".to_owned(),
        };
        Some(certificate(end, &self.keepalive, &heard))
    }

    /// How keepalive is set.
    pub fn settings(&self) -> String {
        match self.keepalive.enabled {
            true => settings(&self.keepalive),
            false => "keepalive off".to_owned(),
        }
    }

    /// Where it is among all: the worst is least.
    pub fn rank(&self) -> impl Ord + use<> {
        let Self {
            unanswered,
            not_sent,
            suppressed,
            timers,
            ..
        } = *self;
        let worst_first =
            std::cmp::Reverse((self.lost(), unanswered, not_sent, suppressed.0, timers));
        (self.fate(), worst_first, self.socket.id)
    }
}
