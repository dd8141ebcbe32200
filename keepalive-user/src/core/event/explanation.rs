//! What `keepalive explain` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Cause, ListedSocket, Sysctls};

/// The JSON of `keepalive explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// The socket; null for the calculator.
    pub socket: Option<Box<ListedSocket>>,
    /// Which end of it was named, if one was; null otherwise.
    pub matched: Option<MatchedEnd>,
    /// What must happen before a probe is sent; null for the calculator.
    pub outlook: Option<Outlook>,
    /// What the keepalive timer last did, if the socket still shows it; null if it does not.
    pub last_run: Option<LastRun>,
    /// The defaults of the socket's network namespace; null if unknown, and for the calculator.
    pub sysctl: Option<Sysctls>,
    /// The defaults of the host (process 1); null if unknown, or if the socket is in its namespace.
    pub host_sysctl: Option<Sysctls>,
    /// Such connections that this side closed first during `--watch`; null without it.
    pub owner_closes: Option<IdleCloses>,
    /// As `owner_closes`, those that the peer closed first.
    pub peer_closes: Option<IdleCloses>,
    /// What the settings mean if the peer becomes silent; null if unknown or not connected.
    pub plan: Option<Plan>,
    /// Shows this connection's probes in tcpdump and Wireshark (`-f` and display of `tcp.len == 0`).
    pub capture_filter: Option<String>,
}

/// The end of a socket that `:PORT` or `ADDR:PORT` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatchedEnd {
    Local,
    Peer,
    /// Both ends have this port, or are the same.
    Both,
}

/// Why no probe has been, or will be, sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// SO_KEEPALIVE is off: never.
    KeepaliveOff,
    /// A listener, or a connection that is not yet or no longer established.
    NotConnected,
    /// Segments are unacknowledged: retransmission decides.
    DataInFlight,
    /// The peer's window is closed: zero-window probes decide.
    ZeroWindow,
    /// Data cannot be sent from this host (no route, firewall), and is tried again.
    SendFails,
    /// Data waits to be sent.
    DataUnsent,
    /// The timer is an orphan's FIN_WAIT2 timer, not a keepalive timer.
    FinWait2,
    /// Probes are unanswered.
    Probing,
    /// The last segment from the peer is less than the idle time old.
    NotIdle,
    /// The keepalive settings are unknown.
    Unknown,
}

/// What the keepalive timer last did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LastRun {
    /// How long ago, milliseconds.
    pub ago_ms: u64,
    pub action: LastAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LastAction {
    /// It sent a probe, which is unanswered.
    ProbeSent,
    /// It sent a probe, and the peer answered at once.
    ProbeAnswered,
    /// It sent none: its deadline counts from when it was set or from the last segment of the peer.
    Armed,
}

/// Connections to the same port that one side closed first during `--watch`, whatever keepalive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct IdleCloses {
    pub watched_ms: u64,
    pub closed: u64,
    /// Time since this side had last received data when it closed its end, milliseconds; null if that was not
    /// observed. An answered probe does not count as data.
    pub idle_ms: Option<Span>,
}

/// The keepalive settings, in force or assumed, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedSettings {
    /// TCP_KEEPIDLE.
    pub time_ms: u64,
    /// TCP_KEEPINTVL.
    pub interval_ms: u64,
    /// TCP_KEEPCNT.
    pub probes: u32,
    /// TCP_USER_TIMEOUT; 0 = none.
    pub user_timeout_ms: u64,
    /// `net.ipv4.tcp_retries2`.
    pub retries2: u32,
    /// The longest retransmission timeout.
    pub rto_max_ms: u64,
}

/// From the earliest to the latest value: timers run late, never early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Span {
    pub least: u64,
    pub most: u64,
}

impl Span {
    /// A range of one value.
    pub fn exactly(number: u64) -> Self {
        Self {
            least: number,
            most: number,
        }
    }
}

/// What the settings mean for an idle connection whose peer becomes silent, counted from the last segment
/// of the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Plan {
    pub settings: PlannedSettings,
    /// The latest is an interval, if that is longer than the idle time: after a probe the timer is set
    /// for an interval, even if the probe is answered at once.
    pub first_probe_ms: Span,
    /// Probes that remain unanswered.
    pub probes: Span,
    pub dead_after_ms: Span,
    /// The rule that ends the connection.
    pub rule: Cause,
    /// The runs of the timer, if none is late; the first 16.
    pub schedule: Vec<PlannedRun>,
    /// Settings that have no effect, or a different one than expected.
    #[serde(rename = "dead_letters")]
    pub unexpected: Vec<UnexpectedEffect>,
    /// The end if, instead, data is not acknowledged; from its first retransmission.
    pub unacknowledged_data: PlannedEnd,
}

/// A run of the keepalive timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedRun {
    /// Time since the last segment from the peer.
    pub after_ms: u64,
    pub action: PlannedAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlannedAction {
    /// Sends a probe.
    Probe,
    /// Ends the connection.
    Kill,
}

/// When and why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedEnd {
    pub after_ms: Span,
    pub rule: Cause,
}

/// A setting that has no effect, or a different one than expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnexpectedEffect {
    /// With TCP_USER_TIMEOUT set the kernel ignores TCP_KEEPCNT.
    ProbesIgnored,
    /// TCP_KEEPINTVL is longer than TCP_KEEPIDLE: after an answered probe the timer is set for an interval, so
    /// that an idle connection whose peer answers is probed only every interval.
    IntervalAboveTime,
    /// A TCP_USER_TIMEOUT of at most the idle time is checked only after the first probe.
    UserTimeoutBelowTime,
    /// More than 255 probes: `icsk_probes_out` is a byte, and a run that finds it wrapped to 0 does not
    /// end the connection.
    ProbesWrap,
}
