//! What `keepalive list` prints: a line for each socket, and one at the end.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

use super::{Cause, Cgroup, Endpoint, Keepalive, Process, Socket, When};

/// One line of `keepalive list --json`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ListLine {
    Socket(Box<ListedSocket>),
    /// Last line: the source of the listing, and what may be missing.
    ListEnd(ListEnd),
}

/// One TCP socket.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ListedSocket {
    #[serde(flatten)]
    pub when: When,
    pub socket: Socket,
    /// The process that holds the socket: if several do, the one selected by `-p`, else the one with the
    /// lowest id. Null if unknown or none.
    pub process: Option<Arc<Process>>,
    /// All processes that hold it.
    pub pids: Vec<u32>,
    /// The cgroup the socket was created in; null if unknown.
    pub cgroup: Option<Arc<Cgroup>>,
    pub container_id: Option<Arc<str>>,
    /// Null if unknown, and for TIME_WAIT and SYN_RECV, which have no settings.
    pub keepalive: Option<Keepalive>,
    /// `net.ipv4.tcp_retries2` of the socket's namespace: retransmissions of unacknowledged data
    /// before the connection is ended. Null where `keepalive` is.
    pub retries2: Option<u32>,
    /// The longest retransmission timeout (`icsk_rto_max`, else `TCP_RTO_MAX`), milliseconds. Null
    /// where `keepalive` is.
    pub rto_max_ms: Option<u64>,
    /// User id of the owner; null in TIME_WAIT, and by sock_diag in SYN_RECV.
    pub uid: Option<u32>,
    /// Inode number of the socket file; null for orphans and not yet accepted connections.
    pub inode: Option<u64>,
    /// Whether no process holds the socket any more, and it exists only to finish the connection.
    pub orphan: bool,
    /// The timers that are armed.
    pub timers: Vec<RunningTimer>,
    /// Whether the kernel reported one timer only and may hide others (`inet_diag`: retransmit
    /// before zero-window probe before keepalive).
    pub one_timer_only: bool,
    /// The next keepalive probe; null if the keepalive timer does not run or is hidden.
    pub next_probe: Option<NextProbe>,
    /// The end, if nothing more is received; null if nothing would end it, or that is unknown.
    pub death: Option<ListedDeath>,
    /// Since data or an ACK was last received, milliseconds: the idle time that keepalive compares. Null
    /// if unknown.
    pub silence_ms: Option<u64>,
    /// Since the peer's last keepalive or zero-window probe, milliseconds, to half a second: `silence_ms` does
    /// not count it. Null if there was none, and where the source does not report it (sock_diag).
    pub peer_probe_ms: Option<u64>,
    /// Since data was last received, milliseconds.
    pub last_data_ms: Option<u64>,
    /// Since an ACK was last received, milliseconds.
    pub last_ack_ms: Option<u64>,
    /// Since the first zero-window probe, milliseconds; null if the peer's window is open, and where that is
    /// unknown (sock_diag).
    pub zero_window_ms: Option<u64>,
    /// Whether no process has accepted it yet.
    pub not_accepted: bool,
    /// Where it waits to be accepted; null unless it does, and for `list`, which does not resolve it.
    pub accept_queue: Option<AcceptQueue>,
    /// Where its peer is; null if it has none, and for `list`, which does not resolve it.
    pub peer: Option<PeerPlace>,
    /// `icsk_probes_out`: unanswered probes.
    pub probes_out: u32,
    /// Bytes not read by the application; for a listener, connections not accepted.
    pub receive_queue: u32,
    /// Bytes not acknowledged by the peer; for a listener, the maximum length of the accept queue.
    pub send_queue: u32,
}

impl ListedSocket {
    /// Since the peer was last heard of, its probes included, milliseconds.
    pub fn heard_ms(&self) -> Option<u64> {
        [self.silence_ms, self.peer_probe_ms]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether this timer is armed.
    pub fn runs(&self, kind: TimerKind) -> bool {
        self.timers.iter().any(|timer| timer.kind == kind)
    }
}

/// The accept queue of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AcceptQueue {
    pub listener: Endpoint,
    /// The owner of the listener; null if unknown, or if several sockets listen there (SO_REUSEPORT).
    pub process: Option<Arc<Process>>,
    /// Connections that wait, of all that listen there.
    pub length: u32,
    /// How many may wait.
    pub most: u32,
}

/// Where the peer of a connection is, by the sockets and addresses of the network namespaces that were listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum PeerPlace {
    /// On this host: its socket is listed as well, or its address is one of this namespace's own.
    Here,
    /// The connection was redirected to a proxy on this host.
    Proxy {
        /// Its end of the connection.
        local: Endpoint,
        /// Null if unknown.
        process: Option<Arc<Process>>,
    },
    /// Neither is the case.
    Elsewhere,
}

/// A timer of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RunningTimer {
    pub kind: TimerKind,
    /// Until it is due, milliseconds; 0 if it is overdue.
    pub in_ms: u64,
    /// Retransmissions or unanswered probes so far.
    pub retries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, EnumIter, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TimerKind {
    /// Retransmission of unacknowledged data (`ICSK_TIME_RETRANS`).
    Retransmit,
    /// Tail loss probe (`ICSK_TIME_LOSS_PROBE`).
    LossProbe,
    /// RACK reordering (`ICSK_TIME_REO_TIMEOUT`).
    Reorder,
    /// Zero-window probe (`ICSK_TIME_PROBE0`).
    WindowProbe,
    /// Data that could not be sent from this host although the peer's window is open: the zero-window probe
    /// timer sends it again.
    SendRetry,
    Keepalive,
    /// An orphan's FIN_WAIT2 timer, which shares the keepalive timer.
    FinWait2,
    DelayedAck,
    TimeWait,
    /// Retransmission of the SYN-ACK of a connection that is not established yet.
    SynAck,
}

/// The next run of the keepalive timer, and what it can lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NextProbe {
    /// Until the timer runs, milliseconds. The kernel does not move this deadline while there is
    /// traffic, and checks only when it expires whether the connection was idle.
    pub timer_ms: u64,
    /// Until a probe can be sent at the earliest, milliseconds, if nothing more is received; null
    /// if it is blocked.
    pub earliest_ms: Option<u64>,
    pub blocked_by: Option<Blocker>,
}

/// When and why the kernel ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ListedDeath {
    /// From now, milliseconds; a lower bound, the timer wheel rounds up.
    pub in_ms: u64,
    /// The rule that ends it first.
    pub rule: Cause,
    /// Whether it depends on timeouts that are not known.
    pub is_estimate: bool,
}

/// Why keepalive does not send a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blocker {
    /// Segments are unacknowledged: retransmission decides.
    DataInFlight,
    /// Data waits to be sent.
    DataUnsent,
    /// The next run ends the connection.
    ConnectionEnds,
    /// The next run stops the timer: keepalive is off, or the connection is not established yet.
    TimerStops,
}

/// The last line of a listing.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ListEnd {
    #[serde(flatten)]
    pub when: When,
    pub source: ListSource,
    /// Better sources that were tried.
    pub refused: Vec<RefusedSource>,
    /// How many were listed.
    pub sockets: u64,
    /// The namespaces that were listed; with `--all-netns` and a filter those with sockets to show.
    pub namespaces: Vec<ListedNamespace>,
    /// What is incomplete, and why.
    pub incomplete: Vec<Incomplete>,
}

/// How sockets are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListSource {
    /// The BPF iterator over TCP sockets: everything the kernel has.
    Iterator,
    /// Netlink `sock_diag`, and `getsockopt` on copies of the sockets (`pidfd_getfd`).
    SockDiag,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RefusedSource {
    pub source: ListSource,
    pub reason: String,
}

/// A network namespace and its defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ListedNamespace {
    /// Inode number.
    pub netns: u32,
    /// How many of its sockets were listed.
    pub sockets: u64,
    /// Null where /proc/sys does not show them.
    pub sysctl: Option<Sysctls>,
}

/// `net.ipv4.tcp_*` of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sysctls {
    /// `tcp_keepalive_time`, milliseconds.
    pub time_ms: u64,
    /// `tcp_keepalive_intvl`, milliseconds.
    pub interval_ms: u64,
    /// `tcp_keepalive_probes`.
    pub probes: u32,
    /// `tcp_retries2`.
    pub retries2: u32,
}

/// A sysctl of [`Sysctls`], by its name in `net.ipv4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, EnumIter, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Sysctl {
    TcpKeepaliveTime,
    TcpKeepaliveIntvl,
    TcpKeepaliveProbes,
    TcpRetries2,
}

impl Sysctls {
    /// The value as /proc/sys shows it: durations in seconds.
    pub fn of(&self, sysctl: Sysctl) -> u64 {
        match sysctl {
            Sysctl::TcpKeepaliveTime => self.time_ms / 1000,
            Sysctl::TcpKeepaliveIntvl => self.interval_ms / 1000,
            Sysctl::TcpKeepaliveProbes => self.probes.into(),
            Sysctl::TcpRetries2 => self.retries2.into(),
        }
    }

    /// From the values as /proc/sys shows them; `None` if one is missing or out of range.
    pub fn read(mut read: impl FnMut(Sysctl) -> Option<u64>) -> Option<Self> {
        Some(Self {
            time_ms: read(Sysctl::TcpKeepaliveTime)?.checked_mul(1000)?,
            interval_ms: read(Sysctl::TcpKeepaliveIntvl)?.checked_mul(1000)?,
            probes: read(Sysctl::TcpKeepaliveProbes)?.try_into().ok()?,
            retries2: read(Sysctl::TcpRetries2)?.try_into().ok()?,
        })
    }

    /// Sysctls that differ: the value here and the value there.
    pub fn differences(&self, there: &Self) -> Vec<(Sysctl, u64, u64)> {
        Sysctl::iter()
            .map(|sysctl| (sysctl, self.of(sysctl), there.of(sysctl)))
            .filter(|(_, here, there)| here != there)
            .collect()
    }
}

/// The part of a listing that is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum IncompletePart {
    Owner,
    Settings,
    Namespace,
    Sockets,
    Sysctls,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Incomplete {
    pub what: IncompletePart,
    /// Of how many.
    pub count: u64,
    pub reason: String,
}
