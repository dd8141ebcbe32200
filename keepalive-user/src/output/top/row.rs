//! What is known of one socket, folded from its events.

use std::{cmp::Reverse, collections::VecDeque, sync::Arc};

use crate::{
    core::{
        event::{
            Answer, Armed, Cause, Cgroup, Closed, Death, Decision, Event, Keepalive, ProbeKind,
            Process, Socket, SocketEvent, TimerRun, When, WindowProbe,
        },
        words::name,
    },
    output::words::owner,
};

/// Most events remembered of one socket …
const HISTORY: usize = 16;
/// … and of all together, beyond the last of each.
const ALL_HISTORY: usize = 1 << 15;
/// Probes whose fate is remembered.
const PROBES: usize = 16;

/// One socket. Times are CLOCK_MONOTONIC, nanoseconds.
#[derive(Clone)]
pub struct Row {
    pub socket: Socket,
    pub process: Option<Arc<Process>>,
    pub cgroup: Option<Arc<Cgroup>>,
    pub container_id: Option<Arc<str>>,
    pub keepalive: Keepalive,
    /// When the peer was last heard, as far as the timer knows.
    pub heard: Option<u64>,
    pub timer: Option<Timer>,
    /// The probe that waits for its answer.
    pub probe: Option<Probe>,
    /// The end, unless an answer comes: when, and what is known of it.
    pub death: Option<(u64, Death)>,
    /// The last decision, or what else happened last.
    pub last: String,
    /// What became of the last probes, oldest first.
    pub fates: VecDeque<Fate>,
    /// The last events, oldest first.
    pub history: VecDeque<(When, Event)>,
    pub ended: Option<(u64, Cause)>,
    /// Owner and addresses, in small letters.
    text: String,
}

/// A timer that runs.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    pub set: u64,
    pub due: u64,
}

/// A probe without an answer.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub kind: ProbeKind,
    /// Its number, from 1.
    pub attempt: u32,
    /// Of how many, if that decides.
    pub of: Option<u32>,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// After so many microseconds, where that is known.
    Answered(Option<u64>),
    Lost,
}

/// In which order rows are worth looking at: the smallest first.
pub type Urgency = (u8, u64);

/// At least one probe is known to be unanswered.
pub const DYING: u8 = 0;
/// It died, which is worth a look.
const DIED: u8 = 1;
/// A probe is out.
const WAITING: u8 = 2;
const QUIET: u8 = 3;
const STOPPED: u8 = 4;

impl Row {
    pub fn new<T>(event: &SocketEvent<T>) -> Self {
        Self {
            socket: event.socket.clone(),
            process: None,
            cgroup: None,
            container_id: None,
            keepalive: event.keepalive,
            heard: None,
            timer: None,
            probe: None,
            death: None,
            last: String::new(),
            fates: VecDeque::new(),
            history: VecDeque::new(),
            ended: None,
            text: String::new(),
        }
    }

    /// Who the socket is may become known later, and changes when a socket changes hands.
    pub fn identify<T>(&mut self, event: &SocketEvent<T>) {
        self.socket = event.socket.clone();
        self.keepalive = event.keepalive;
        if event.cgroup.is_some() {
            self.cgroup.clone_from(&event.cgroup);
            self.container_id.clone_from(&event.container_id);
        }
        let news = event.process.is_some() && event.process != self.process;
        if news {
            self.process.clone_from(&event.process);
        }
        if news || self.text.is_empty() {
            let owner = owner(self.process.as_ref());
            let Socket { local, peer, .. } = &self.socket;
            self.text = format!("{owner} {local} {peer}").to_lowercase();
        }
    }

    /// Remembers an event of one of so many sockets.
    pub fn remember(&mut self, when: When, event: &Event, sockets: usize) {
        let most = (ALL_HISTORY / sockets.max(1)).clamp(1, HISTORY);
        keep(&mut self.history, most, (when, event.clone()));
        if self.history.capacity() > most {
            self.history.shrink_to(most);
        }
    }

    pub fn armed(&mut self, when: When, armed: &Armed) {
        self.heard(when, armed.idle_ms);
        self.last = name(&armed.cause);
        if self.keepalive.enabled {
            self.set_timer(when, armed.next_ms);
        } else {
            "switched_off".clone_into(&mut self.last);
            (self.timer, self.probe, self.death) = (None, None, None);
        }
    }

    pub fn timer(&mut self, when: When, run: &TimerRun) {
        self.heard(when, run.idle_ms);
        self.set_timer(when, run.next_ms);
        self.last = name(&run.decision);
        match run.attempt {
            Some(attempt) => self.probed(ProbeKind::Keepalive, attempt, run.attempts),
            // A run that changes nothing: the probe before it is still out.
            None if matches!(run.decision, Decision::SocketBusy | Decision::ProbeFailed) => return,
            None if run.decision == Decision::Killed => {}
            None => self.probe = None,
        }
        self.set_death(when, run.death);
    }

    pub fn window_probe(&mut self, when: When, probe: &WindowProbe) {
        self.set_timer(when, probe.next_ms);
        "window_probe".clone_into(&mut self.last);
        self.probed(ProbeKind::Window, probe.probes_out.after.max(1), None);
        self.set_death(when, probe.death);
    }

    pub fn answer(&mut self, when: When, answer: &Answer) {
        self.heard = self.heard.max(Some(when.monotonic_ns));
        "answered".clone_into(&mut self.last);
        keep(&mut self.fates, PROBES, Fate::Answered(answer.rtt_us));
        (self.probe, self.death) = (None, None);
    }

    pub fn closed(&mut self, when: When, closed: &Closed) {
        self.heard(when, closed.idle_ms);
        self.last = name(&closed.cause);
        self.ended = Some((when.monotonic_ns, closed.cause));
        (self.timer, self.death) = (None, None);
        // A reset is an answer too.
        if self.probe.is_some() && closed.cause != Cause::PeerReset {
            keep(&mut self.fates, PROBES, Fate::Lost);
        }
    }

    /// A probe was sent. If another one was out, nobody answered that.
    fn probed(&mut self, kind: ProbeKind, attempt: u32, of: Option<u32>) {
        if attempt > 1 {
            keep(&mut self.fates, PROBES, Fate::Lost);
        }
        self.probe = Some(Probe { kind, attempt, of });
    }

    fn heard(&mut self, when: When, idle_ms: Option<u64>) {
        let ago = idle_ms.map(nanos);
        self.heard = ago.map_or(self.heard, |ago| {
            Some(when.monotonic_ns.saturating_sub(ago))
        });
    }

    fn set_timer(&mut self, when: When, next_ms: Option<u64>) {
        self.timer = next_ms.map(|next| Timer {
            set: when.monotonic_ns,
            due: when.monotonic_ns.saturating_add(nanos(next)),
        });
    }

    fn set_death(&mut self, when: When, death: Option<Death>) {
        self.death = death.map(|death| {
            let at = when.monotonic_ns.saturating_add(nanos(death.in_ms));
            (at, death)
        });
    }

    /// Closest to death first.
    pub fn urgency(&self) -> Urgency {
        let due = self.timer.map_or(u64::MAX, |timer| timer.due);
        let death = self.death.map_or(due, |(at, _)| at);
        match (self.ended, self.probe) {
            (Some((at, cause)), _) if is_violent(cause) => (DIED, u64::MAX - at),
            (Some(_), _) => (STOPPED, u64::MAX),
            (None, Some(probe)) if probe.attempt > 1 => (DYING, death),
            (None, Some(_)) => (WAITING, death),
            (None, None) if self.timer.is_some() => (QUIET, due),
            (None, None) => (STOPPED, self.socket.id),
        }
    }

    /// The last round trip that was measured, longest first.
    pub fn slowness(&self) -> Reverse<Option<u64>> {
        let measured = |fate: &Fate| match fate {
            Fate::Answered(rtt) => *rtt,
            Fate::Lost => None,
        };
        Reverse(self.fates.iter().rev().find_map(measured))
    }

    /// Milliseconds of silence.
    pub fn silence(&self, now: u64) -> Option<u64> {
        let now = self.ended.map_or(now, |(at, _)| at);
        Some(now.saturating_sub(self.heard?) / 1_000_000)
    }

    /// Whether a text in small letters is in what the row says.
    pub fn mentions(&self, text: &str) -> bool {
        self.text.contains(text) || self.last.contains(text)
    }

    /// To sort by owner.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Whether a connection ended otherwise than by being closed.
pub fn is_violent(cause: Cause) -> bool {
    !matches!(
        cause,
        Cause::PeerFin | Cause::LocalClose | Cause::LocalAbort | Cause::Unknown
    )
}

fn nanos(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

/// Adds to the newest end, and drops what is too old. Takes no more memory than that: an event has
/// 400 bytes, and there may be 100,000 sockets.
fn keep<T>(all: &mut VecDeque<T>, most: usize, new: T) {
    while all.len() >= most {
        all.pop_front();
    }
    all.reserve_exact(1);
    all.push_back(new);
}
