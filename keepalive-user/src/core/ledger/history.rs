//! One socket over time, folded from its events: its owner, its counters and its present state.
//! Times are CLOCK_MONOTONIC, nanoseconds.

use std::{collections::VecDeque, sync::Arc};

use crate::core::{
    event::{
        About, Answer, Armed, ArmedCause, Cause, Cgroup, Closed, Death, Decision, Event, Keepalive,
        ProbeKind, Process, SendRetry, Socket, TimerRun, Totals, When, WindowProbe,
    },
    format::name,
};

/// Number of probes whose result is remembered.
const RESULTS: usize = 16;

#[derive(Clone, Debug)]
pub struct History {
    pub socket: Socket,
    pub process: Option<Arc<Process>>,
    pub cgroup: Option<Arc<Cgroup>>,
    pub container_id: Option<Arc<str>>,
    pub keepalive: Keepalive,
    /// Events before the first one here were dropped: the counters start there, until the certificate
    /// supplies the totals.
    pub is_partial: bool,
    /// Runs of the keepalive timer.
    pub timers: u64,
    /// Keepalive and zero-window probes.
    pub probes: u64,
    pub answers: u64,
    /// Probes that were followed by another one before an answer: answered late, or lost.
    pub unresolved: u32,
    /// Probes that did not leave this host.
    pub not_sent: u32,
    /// Consecutive timer runs, up to the last one, that sent no probe because of data.
    pub suppressed: Option<Suppressed>,
    /// `icsk_probes_out`, as last seen.
    pub probes_out: u32,
    /// The last probe may still be answered, or a reset answered it.
    is_waiting: bool,
    pub worst_rtt_us: Option<u64>,
    pub longest_silence_ms: Option<u64>,
    /// Silence at which the kernel ends the connection, milliseconds, as last computed.
    pub limit_ms: Option<u64>,
    /// When the last segment from the peer was received, as of the last timer run.
    pub heard: Option<u64>,
    pub timer: Option<Timer>,
    /// The probe that is outstanding.
    pub probe: Option<Probe>,
    /// When the kernel ends the connection unless an answer comes, and by which rule.
    pub death: Option<(u64, Death)>,
    /// What happened last.
    pub last: Option<Last>,
    /// The results of the last probes, oldest first.
    pub results: VecDeque<ProbeResult>,
    pub end: Option<Box<Ended>>,
}

/// An armed timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    pub set: u64,
    pub due: u64,
}

/// An unanswered probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub kind: ProbeKind,
    /// Its number, from 1.
    pub attempt: u32,
    /// The maximum number of probes, if the count decides.
    pub of: Option<u32>,
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// Answered after this many microseconds, if the time is known.
    Answered(Option<u64>),
    Unanswered,
    /// Followed by another probe, and then by an answer that may be to either.
    Unresolved,
}

/// Timer runs without a probe, and the reason of the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed {
    pub runs: u64,
    pub by: Data,
}

/// Data that keeps the keepalive timer from probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Sent and not acknowledged.
    InFlight,
    /// Written and not sent.
    Unsent,
}

/// What happened last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Armed(ArmedCause),
    SwitchedOff,
    Timer(Decision),
    WindowProbe,
    SendRetry,
    Answered,
    Closed(Cause),
}

/// The end of a socket.
#[derive(Clone, Debug)]
pub struct Ended {
    pub at: u64,
    pub closed: Closed,
}

impl Last {
    pub fn name(self) -> &'static str {
        match self {
            Self::Armed(cause) => name(cause),
            Self::SwitchedOff => "switched_off",
            Self::Timer(decision) => name(decision),
            Self::WindowProbe => "window_probe",
            Self::SendRetry => "send_retry",
            Self::Answered => "answered",
            Self::Closed(cause) => name(cause),
        }
    }
}

impl History {
    /// The history of a socket before its first event, which is then passed to [`Self::observe`].
    pub fn new(about: About<'_>) -> Self {
        Self {
            socket: about.socket.clone(),
            process: None,
            cgroup: None,
            container_id: None,
            keepalive: *about.keepalive,
            is_partial: false,
            timers: 0,
            probes: 0,
            answers: 0,
            unresolved: 0,
            not_sent: 0,
            suppressed: None,
            probes_out: 0,
            is_waiting: false,
            worst_rtt_us: None,
            longest_silence_ms: None,
            limit_ms: None,
            heard: None,
            timer: None,
            probe: None,
            death: None,
            last: None,
            results: VecDeque::new(),
            end: None,
        }
    }

    /// Folds an event of this socket.
    pub fn observe(&mut self, about: About<'_>, event: &Event) {
        self.identify(about);
        let when = about.when;
        match event {
            Event::Armed(event) => self.armed(when, &event.what),
            Event::Timer(event) => self.timer_ran(when, &event.what),
            Event::WindowProbe(event) => self.window_probed(when, &event.what),
            Event::SendRetry(event) => self.send_retried(when, &event.what),
            Event::Answer(event) => self.answered(when, &event.what),
            Event::Closed(event) => self.closed(when, &event.what),
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => {}
        }
    }

    /// The owner may be resolved later than the first event, and changes when the socket changes hands.
    fn identify(&mut self, about: About<'_>) {
        self.socket.clone_from(about.socket);
        self.keepalive = *about.keepalive;
        if about.process.is_some() {
            self.process = about.process.cloned();
        }
        if about.cgroup.is_some() {
            self.cgroup = about.cgroup.cloned();
            self.container_id = about.container_id.cloned();
        }
    }

    fn armed(&mut self, when: When, armed: &Armed) {
        self.heard_by(when, armed.idle_ms);
        if self.keepalive.enabled {
            self.last = Some(Last::Armed(armed.cause));
            self.set_timer(when, armed.next_ms);
        } else {
            self.last = Some(Last::SwitchedOff);
            (self.timer, self.probe, self.death) = (None, None, None);
        }
    }

    fn timer_ran(&mut self, when: When, run: &TimerRun) {
        self.timers += 1;
        self.not_sent += u32::from(run.is_unsent());
        self.probes_out = run.probes_out.after;
        self.suppress(run.decision);
        self.silent(run.idle_ms);
        if let (Some(idle), Some(death)) = (run.idle_ms, &run.death) {
            self.limit_ms = Some(idle.saturating_add(death.in_ms));
        }
        self.heard_by(when, run.idle_ms);
        self.set_timer(when, run.next_ms);
        self.last = Some(Last::Timer(run.decision));
        if let Some(attempt) = run.attempt {
            self.probed(ProbeKind::Keepalive, attempt, run.attempts);
        } else {
            match run.decision {
                // A run that changes nothing: the previous probe is still outstanding.
                Decision::SocketBusy | Decision::ProbeFailed => return,
                Decision::Killed => {}
                Decision::ProbeSent
                | Decision::DataInFlight
                | Decision::DataUnsent
                | Decision::NotIdle
                | Decision::Stopped
                | Decision::FinWait2 => self.probe = None,
            }
        }
        self.set_death(when, run.death);
    }

    fn suppress(&mut self, decision: Decision) {
        let by = match decision {
            Decision::DataInFlight => Some(Data::InFlight),
            Decision::DataUnsent => Some(Data::Unsent),
            Decision::ProbeSent
            | Decision::ProbeFailed
            | Decision::NotIdle
            | Decision::SocketBusy
            | Decision::Stopped
            | Decision::FinWait2
            | Decision::Killed => None,
        };
        let runs = self.suppressed.map_or(0, |before| before.runs) + 1;
        self.suppressed = by.map(|by| Suppressed { runs, by });
    }

    fn window_probed(&mut self, when: When, probe: &WindowProbe) {
        self.not_sent += u32::from(probe.sent == Some(false));
        self.probes_out = probe.probes_out.after;
        self.set_timer(when, probe.next_ms);
        self.last = Some(Last::WindowProbe);
        self.probed(ProbeKind::Window, probe.probes_out.after.max(1), None);
        self.set_death(when, probe.death);
    }

    /// Not a probe, and nothing to answer.
    fn send_retried(&mut self, when: When, retry: &SendRetry) {
        self.probes_out = retry.retries.after;
        self.last = Some(Last::SendRetry);
        self.set_death(when, retry.death);
    }

    fn answered(&mut self, when: When, answer: &Answer) {
        self.answers += 1;
        self.unresolved = self.unresolved.saturating_add(answer.earlier);
        self.is_waiting = false;
        self.probes_out = 0;
        self.worst_rtt_us = self.worst_rtt_us.max(answer.rtt_us);
        self.heard = self.heard.max(Some(when.monotonic_ns));
        self.last = Some(Last::Answered);
        let earlier = usize::try_from(answer.earlier).unwrap_or(usize::MAX);
        for result in self.results.iter_mut().rev().take(earlier) {
            if *result == ProbeResult::Unanswered {
                *result = ProbeResult::Unresolved;
            }
        }
        self.remember(ProbeResult::Answered(answer.rtt_us));
        (self.probe, self.death) = (None, None);
    }

    fn closed(&mut self, when: When, closed: &Closed) {
        self.probes_out = closed.probes_out;
        self.silent(closed.idle_ms);
        self.heard_by(when, closed.idle_ms);
        self.last = Some(Last::Closed(closed.cause));
        (self.timer, self.death) = (None, None);
        // A reset counts as an answer, too.
        let is_reset = closed.cause == Cause::PeerReset;
        self.is_waiting &= is_reset;
        if self.probe.is_some() && !is_reset {
            self.remember(ProbeResult::Unanswered);
        }
        if self.is_partial {
            self.take_totals(&closed.totals);
        }
        self.end = Some(Box::new(Ended {
            at: when.monotonic_ns,
            closed: closed.clone(),
        }));
    }

    /// The certificate has the complete totals, even if events are missing here.
    fn take_totals(&mut self, totals: &Totals) {
        self.timers = totals.timers;
        self.probes = totals.keepalive_probes + totals.window_probes;
        self.answers = totals.keepalive_answers + totals.window_answers;
        self.unresolved = totals.unresolved_probes.try_into().unwrap_or(u32::MAX);
        self.worst_rtt_us = totals.worst_rtt_us;
    }

    /// A probe was sent. An earlier outstanding probe is unanswered.
    fn probed(&mut self, kind: ProbeKind, attempt: u32, of: Option<u32>) {
        self.probes += 1;
        self.is_waiting = true;
        if attempt > 1 {
            self.remember(ProbeResult::Unanswered);
        }
        self.probe = Some(Probe { kind, attempt, of });
    }

    /// Allocates no more than necessary: `top` has a history of 100,000 sockets.
    fn remember(&mut self, result: ProbeResult) {
        if self.results.len() >= RESULTS {
            self.results.pop_front();
        }
        self.results.reserve_exact(1);
        self.results.push_back(result);
    }

    fn silent(&mut self, idle_ms: Option<u64>) {
        self.longest_silence_ms = self.longest_silence_ms.max(idle_ms);
    }

    fn heard_by(&mut self, when: When, idle_ms: Option<u64>) {
        if let Some(ago) = idle_ms.map(nanos) {
            self.heard = Some(when.monotonic_ns.saturating_sub(ago));
        }
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

    /// Probes without an answer, except the outstanding one of an open socket, the one that a reset answered,
    /// and those before an answer that may be theirs.
    pub fn unanswered(&self) -> u64 {
        let waiting = u64::from(self.is_waiting);
        self.probes
            .saturating_sub(self.answers + u64::from(self.unresolved) + waiting)
    }

    /// Why it ended, if it has.
    pub fn cause(&self) -> Option<Cause> {
        self.end.as_ref().map(|end| end.closed.cause)
    }

    /// The last measured round-trip time, microseconds.
    pub fn latest_rtt_us(&self) -> Option<u64> {
        let newest_first = self.results.iter().rev();
        newest_first
            .filter_map(|result| match result {
                ProbeResult::Answered(rtt) => *rtt,
                ProbeResult::Unanswered | ProbeResult::Unresolved => None,
            })
            .next()
    }

    /// Milliseconds without a segment from the peer, until now or the end.
    pub fn silence_ms(&self, now: u64) -> Option<u64> {
        let now = self.end.as_ref().map_or(now, |end| end.at);
        Some(now.saturating_sub(self.heard?) / 1_000_000)
    }
}

fn nanos(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}
