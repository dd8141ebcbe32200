//! What `keepalive explain` says.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Cause, ListedSocket, Sysctls};

/// The JSON of `keepalive explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// The socket; null for the calculator.
    pub socket: Option<Box<ListedSocket>>,
    /// What stands between now and a probe; null for the calculator.
    pub outlook: Option<Outlook>,
    /// What the keepalive timer last did, as far as the socket still shows it; null if it does not.
    pub last_run: Option<LastRun>,
    /// The defaults of the socket's network namespace; null if unknown, and for the calculator.
    pub sysctl: Option<Sysctls>,
    /// Those of the host (process 1); null if unknown, or the socket is in its namespace.
    pub host_sysctl: Option<Sysctls>,
    /// How such connections were closed while they were watched (`--watch`); null if not watched.
    pub owner_closes: Option<OwnerCloses>,
    /// What its settings mean if the peer falls silent; null if unknown or not connected.
    pub plan: Option<Plan>,
    /// Shows this connection's probes in tcpdump and Wireshark (`-f` and display of `tcp.len == 0`).
    pub capture_filter: Option<String>,
}

/// Why a probe has not been, or will not be, seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// SO_KEEPALIVE is off: never.
    KeepaliveOff,
    /// A listener, or a connection that is not established yet or no more.
    NotConnected,
    /// Segments are unacknowledged: retransmission decides.
    DataInFlight,
    /// The peer's window is closed: zero-window probes decide.
    ZeroWindow,
    /// Data waits to be sent.
    DataUnsent,
    /// An orphan's timer, which is not keepalive.
    FinWait2,
    /// Probes are out and unanswered.
    Probing,
    /// The peer was heard not long enough ago.
    NotIdle,
    /// How keepalive is set is not known.
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
    /// It sent a probe, and the peer was heard at once.
    ProbeAnswered,
    /// It sent none: its deadline is counted from then, when it was set or the peer was heard.
    Armed,
}

/// How connections to the same port ended while they were watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OwnerCloses {
    pub watched_ms: u64,
    /// Connections that this side closed.
    pub closed: u64,
    /// Since data last came in when it did, milliseconds; null if it closed none. An answered probe
    /// is no data.
    pub idle_ms: Option<Span>,
}

/// How keepalive is set, or assumed to be, milliseconds.
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

/// From least to most: timers run late, never early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Span {
    pub least: u64,
    pub most: u64,
}

impl Span {
    /// From a number to itself.
    pub fn exactly(number: u64) -> Self {
        Self {
            least: number,
            most: number,
        }
    }
}

/// What settings mean for an idle connection whose peer falls silent, from when it was last heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Plan {
    pub settings: PlannedSettings,
    /// The most is an interval, if that is longer than the time: so long the timer is set for after
    /// a probe, also if that is answered at once.
    pub first_probe_ms: Span,
    /// Probes that are sent in vain.
    pub probes: Span,
    pub dead_after_ms: Span,
    /// What ends the connection.
    pub rule: Cause,
    /// The runs of the timer, if none is late; the first 16.
    pub schedule: Vec<PlannedRun>,
    /// Settings that do not do what they seem to.
    pub dead_letters: Vec<DeadLetter>,
    /// The end if, instead, data is not acknowledged; from its first retransmission.
    pub unacknowledged_data: PlannedEnd,
}

/// A run of the keepalive timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PlannedRun {
    /// From when the peer was last heard.
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

/// A setting that does not do what it seems to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetter {
    /// With TCP_USER_TIMEOUT set the kernel ignores TCP_KEEPCNT.
    ProbesIgnored,
    /// A TCP_USER_TIMEOUT of at most the idle time is looked at only after the first probe.
    UserTimeoutBelowTime,
    /// More than 255 probes: `icsk_probes_out` is a byte, and a run that finds it 0 again does not
    /// end the connection.
    ProbesWrap,
}
