//! # Events: what `keepalive` reports
//!
//! The typed events that every output renders, and their JSON form: one object per line,
//! snake_case, `null` where the kernel or the backend does not show it. `keepalive schema` prints the
//! JSON Schema made from these types.
//!
//! This module does not depend on the source of an event or on its output format.

mod audit;
mod cause;
mod diagnosis;
mod explanation;
mod listing;
mod losses;
mod session;
mod socket;
mod text;
mod timer;

use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoStaticStr};

pub use self::audit::{AuditEnd, AuditLine, Finding, Severity};
pub use self::cause::{Cause, Meaning, Rule};
pub use self::diagnosis::{
    BackendReport, CapabilityReport, CommandReport, Compared, Diagnosis, FieldReport, HookReport,
    KeptReport, LayoutReport, ListReport, SandboxReport, Status,
};
pub use self::explanation::{
    Explanation, IdleCloses, LastAction, LastRun, MatchedEnd, Outlook, Plan, PlannedAction,
    PlannedEnd, PlannedRun, PlannedSettings, Span, UnexpectedEffect,
};
pub use self::listing::{
    AcceptQueue, Blocker, Incomplete, IncompletePart, ListEnd, ListLine, ListSource, ListedDeath,
    ListedNamespace, ListedSocket, NextProbe, PeerPlace, RefusedSource, RunningTimer, Sysctl,
    Sysctls, TimerKind,
};
pub use self::losses::{Losses, Lost, LostWhere, Missed, MissedCounts, MissedWhere};
pub use self::session::{
    Backend, ClockStep, End, EventCounts, Refused, SCHEMA_VERSION, Start, Suspend, SysctlChange,
    UnaffectedSockets,
};
pub use self::socket::{Cgroup, Endpoint, Family, Keepalive, Origin, Process, Socket, TcpState};
pub use self::text::{Cookie, Errno};
pub use self::timer::{Decision, Outage, TimerRun};

/// One line of output.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line: version, host, backend, filters, and what this trace cannot observe.
    Start(Box<Start>),
    /// Keepalive was switched on, off or retimed, or inherited at accept.
    Armed(SocketEvent<Armed>),
    /// The keepalive timer of a socket ran (`tcp_keepalive_timer`).
    Timer(SocketEvent<TimerRun>),
    /// A zero-window probe (`tcp_send_probe0`, RFC 9293 section 3.8.6.1).
    WindowProbe(SocketEvent<WindowProbe>),
    /// The persist timer retried data that could not be sent on this host: no probe, the window is open.
    SendRetry(SocketEvent<SendRetry>),
    /// An outstanding probe was answered.
    Answer(SocketEvent<Answer>),
    /// A tracked socket ended: its death certificate.
    Closed(SocketEvent<Closed>),
    /// What `audit` found when the trace began (`--audit`).
    Finding(Box<Finding>),
    /// Observations were lost since the last such line.
    Lost(Lost),
    /// The kernel acted and no program saw it, since the last such line.
    Missed(Missed),
    /// The host was suspended.
    Suspend(Suspend),
    /// The wall clock was set.
    ClockStep(ClockStep),
    /// A sysctl of a network namespace was changed.
    Sysctl(SysctlChange),
    /// Last line: totals.
    End(End),
}

/// When an event happened.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct When {
    /// Wall-clock time, RFC 3339, UTC, nanoseconds.
    #[schemars(with = "String")]
    pub timestamp: Timestamp,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
}

/// The fields common to all events about a socket, around the event's own fields.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SocketEvent<T> {
    #[serde(flatten)]
    pub when: When,
    pub socket: Socket,
    /// The socket's owner (not the task that the softirq interrupted); null if unknown.
    pub process: Option<Arc<Process>>,
    /// The cgroup the socket was created in; null if unknown.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Container id, where the cgroup path contains one.
    pub container_id: Option<Arc<str>>,
    pub keepalive: Keepalive,
    #[serde(flatten)]
    pub what: T,
}

/// The socket that an event is about, and its owner.
#[derive(Clone, Copy)]
pub struct About<'a> {
    pub when: When,
    pub socket: &'a Socket,
    pub process: Option<&'a Arc<Process>>,
    pub cgroup: Option<&'a Arc<Cgroup>>,
    pub container_id: Option<&'a Arc<str>>,
    pub keepalive: &'a Keepalive,
}

/// The owner of a socket: the part of an event that is filled in last.
pub struct OwnerFields<'a> {
    pub process: &'a mut Option<Arc<Process>>,
    pub cgroup: &'a mut Option<Arc<Cgroup>>,
    pub container_id: &'a mut Option<Arc<str>>,
}

impl Event {
    /// When it happened.
    pub fn when(&self) -> When {
        match self {
            Self::Start(start) => start.when,
            Self::Armed(event) => event.when,
            Self::Timer(event) => event.when,
            Self::WindowProbe(event) => event.when,
            Self::SendRetry(event) => event.when,
            Self::Answer(event) => event.when,
            Self::Closed(event) => event.when,
            Self::Finding(finding) => finding.when,
            Self::Lost(lost) => lost.when,
            Self::Missed(missed) => missed.when,
            Self::Suspend(suspend) => suspend.when,
            Self::ClockStep(step) => step.when,
            Self::Sysctl(change) => change.when,
            Self::End(end) => end.when,
        }
    }

    /// The socket and its owner, if the event is about a socket.
    pub fn about(&self) -> Option<About<'_>> {
        match self {
            Self::Armed(event) => Some(event.about()),
            Self::Timer(event) => Some(event.about()),
            Self::WindowProbe(event) => Some(event.about()),
            Self::SendRetry(event) => Some(event.about()),
            Self::Answer(event) => Some(event.about()),
            Self::Closed(event) => Some(event.about()),
            Self::Start(_)
            | Self::Finding(_)
            | Self::Lost(_)
            | Self::Missed(_)
            | Self::Suspend(_)
            | Self::ClockStep(_)
            | Self::Sysctl(_)
            | Self::End(_) => None,
        }
    }

    /// Whether it reports that a keepalive probe was sent.
    pub fn is_keepalive_probe(&self) -> bool {
        matches!(self, Self::Timer(timer) if timer.what.attempt.is_some())
    }

    /// The owner's fields, if the event is about a socket.
    pub fn owner(&mut self) -> Option<OwnerFields<'_>> {
        match self {
            Self::Armed(event) => Some(event.owner()),
            Self::Timer(event) => Some(event.owner()),
            Self::WindowProbe(event) => Some(event.owner()),
            Self::SendRetry(event) => Some(event.owner()),
            Self::Answer(event) => Some(event.owner()),
            Self::Closed(event) => Some(event.owner()),
            Self::Start(_)
            | Self::Finding(_)
            | Self::Lost(_)
            | Self::Missed(_)
            | Self::Suspend(_)
            | Self::ClockStep(_)
            | Self::Sysctl(_)
            | Self::End(_) => None,
        }
    }
}

impl<T> SocketEvent<T> {
    fn about(&self) -> About<'_> {
        About {
            when: self.when,
            socket: &self.socket,
            process: self.process.as_ref(),
            cgroup: self.cgroup.as_ref(),
            container_id: self.container_id.as_ref(),
            keepalive: &self.keepalive,
        }
    }

    fn owner(&mut self) -> OwnerFields<'_> {
        OwnerFields {
            process: &mut self.process,
            cgroup: &mut self.cgroup,
            container_id: &mut self.container_id,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Armed {
    pub cause: ArmedCause,
    /// Until the keepalive timer is due, milliseconds; null if it is not armed.
    pub next_ms: Option<u64>,
    /// How long the peer has been silent, milliseconds; null if nothing was ever received.
    pub idle_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, EnumIter, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ArmedCause {
    /// SO_KEEPALIVE or TCP_KEEPIDLE was set; `keepalive.enabled` is whether it is on now.
    Setsockopt,
    /// It was on before `connect`, and the connection is established now.
    Connect,
    /// Inherited from the listener.
    Accept,
    /// The socket is older than the tracer.
    Seen,
}

/// When the kernel ends the connection unless an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Death {
    /// From this event, milliseconds; a lower bound, the timer wheel rounds up.
    pub in_ms: u64,
    /// The wall-clock time of that.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// The rule that ends it first.
    pub rule: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BeforeAfter {
    pub before: u32,
    pub after: u32,
}

/// One zero-window probe.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WindowProbe {
    /// `icsk_probes_out`: unanswered probes.
    pub probes_out: BeforeAfter,
    /// `icsk_backoff` after it: the timeout doubles with each.
    pub backoff: u32,
    /// Bytes waiting for the window to open.
    pub unsent_bytes: u32,
    /// As for `timer`, and so `send_error` and `outage`.
    pub sent: Option<bool>,
    pub send_error: Option<Errno>,
    pub outage: Option<Outage>,
    /// Until the next probe, milliseconds; null if the connection was ended or the window opened.
    pub next_ms: Option<u64>,
    /// The earliest end; null if unknown (count alone, with a growing interval: see `keepalive`).
    pub death: Option<Death>,
}

/// One retry of data that this host did not send: the route, the firewall or the queue refused it. The kernel
/// uses the timer and the counters of zero-window probes for it (`tcp_write_wakeup`).
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SendRetry {
    /// `icsk_probes_out`: failed retries.
    pub retries: BeforeAfter,
    /// Bytes waiting to be sent.
    pub unsent_bytes: u32,
    /// As for `timer`, and so `send_error` and `outage`.
    pub sent: Option<bool>,
    pub send_error: Option<Errno>,
    pub outage: Option<Outage>,
    /// Until the next retry, milliseconds; null if it was sent, or the connection was ended.
    pub next_ms: Option<u64>,
    /// The end, unless it can be sent.
    pub death: Option<Death>,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    pub probe: ProbeKind,
    /// The last of the unanswered probes in a row when the answer arrived, from 1.
    pub attempt: u32,
    /// Earlier probes in that row that left this host: the answer may be theirs, too late, or they were lost.
    pub earlier: u32,
    /// From the probe to its answer, microseconds; null if it is ambiguous which probe was answered (`earlier`
    /// is not 0), or later traffic hides the time; `timestamp` is then the latest possible time of the answer.
    pub rtt_us: Option<u64>,
    pub precision: Option<Precision>,
    /// How long after its arrival the answer was read from the socket, milliseconds: later events may have
    /// been reported before.
    pub reported_after_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    Keepalive,
    Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// To the microsecond.
    Exact,
    /// To one tick of the kernel (1/`hz` s).
    Jiffy,
}

/// The death certificate of a tracked socket.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Closed {
    pub cause: Cause,
    /// Errno name reported to the application (`ETIMEDOUT`); null if none, and for an orphan.
    pub error: Option<Errno>,
    /// TCP state before CLOSE.
    pub from_state: TcpState,
    /// Whether no process held the socket any more: it was closed before, and existed only to deliver its
    /// last data.
    pub orphan: bool,
    /// The process that closed or aborted it; null if none did, or if that was not observed.
    pub closed_by: Option<ClosedBy>,
    /// Bytes that the application wrote and the peer did not acknowledge.
    pub undelivered_bytes: u32,
    /// Since the first retransmission of what was not acknowledged, milliseconds; null if there was none. For
    /// a connection that was never established: since its first SYN.
    pub retransmitting_ms: Option<u64>,
    /// Since the first and since the last of the unanswered probes was sent, milliseconds; null if none was
    /// outstanding.
    pub probing_ms: Option<u64>,
    pub last_probe_ms: Option<u64>,
    /// Why none of the unanswered probes left this host; null if one may have, or none was outstanding.
    pub outage: Option<Outage>,
    /// Silence of the peer at the end, milliseconds; null if nothing was ever received.
    pub idle_ms: Option<u64>,
    /// How long no data had been received when a process of this side closed it, milliseconds; null if
    /// none did, if that was not observed, or if no data was ever received. An answered probe does not
    /// count as data.
    pub last_data_ms: Option<u64>,
    /// Since the connection was established, milliseconds; null unless that was observed, which requires
    /// SO_KEEPALIVE to be on at that time.
    pub lifetime_ms: Option<u64>,
    /// Since the first event about this socket, milliseconds.
    pub watched_ms: u64,
    /// Unanswered probes at the end.
    pub probes_out: u32,
    /// Consecutive retransmissions at the end (`icsk_retransmits`).
    pub retransmits: u32,
    #[serde(flatten)]
    pub totals: Totals,
}

/// The process that closed or aborted a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ClosedBy {
    pub pid: u32,
    /// Untrusted: arbitrary bytes chosen by the process, converted to valid UTF-8.
    pub comm: String,
    /// Whether it was exiting, so that the kernel closed its files.
    pub exiting: bool,
    /// The signal that killed it (9 = SIGKILL); null if none did.
    pub signal: Option<u32>,
}

/// What one socket did while it was traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Totals {
    /// Runs of the keepalive timer.
    pub timers: u64,
    /// Keepalive probes counted by the kernel.
    pub keepalive_probes: u64,
    /// Of these, answered.
    pub keepalive_answers: u64,
    /// Zero-window probes.
    pub window_probes: u64,
    /// Of these, answered.
    pub window_answers: u64,
    /// Probes of either kind that were followed by another probe before an answer: answered late, or lost.
    pub unresolved_probes: u64,
    /// Slowest answer, microseconds.
    pub worst_rtt_us: Option<u64>,
}

#[cfg(test)]
mod tests;
