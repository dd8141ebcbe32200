//! A socket, its settings and its owner.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoStaticStr};

use super::Cookie;

/// The identity of the socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Socket {
    /// Number of the socket in this trace, from 1: the identity to group events by.
    pub id: u64,
    /// The kernel's socket cookie (SO_COOKIE), hexadecimal; null until the kernel has generated one,
    /// which it does on request (the BPF iterator does not request it).
    pub cookie: Option<Cookie>,
    pub family: Family,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub state: TcpState,
    /// Inode number of the network namespace (`ls -L -i /proc/PID/ns/net`).
    pub netns: u32,
    /// Whether the socket is a subflow of an MPTCP connection; null on kernels without MPTCP.
    pub mptcp: Option<bool>,
}

/// Address family of the addresses; IPv4-mapped IPv6 is `ipv4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// TCP state, RFC 9293 section 3.3.2.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumIter, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
    BoundInactive,
    /// A state that this version has no name for.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    pub pid: u32,
    /// Untrusted: arbitrary bytes chosen by the process, converted to valid UTF-8.
    pub comm: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cgroup {
    /// Inode number of its directory.
    pub id: u64,
    /// Path below the cgroup2 mount; null if it was removed or is not visible here. Untrusted.
    pub path: Option<String>,
}

/// The settings the kernel uses for this socket now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Keepalive {
    /// SO_KEEPALIVE.
    pub enabled: bool,
    /// Idle time before the first probe (TCP_KEEPIDLE), milliseconds.
    pub time_ms: u64,
    pub time_origin: Option<Origin>,
    /// Time between probes (TCP_KEEPINTVL), milliseconds.
    pub interval_ms: u64,
    pub interval_origin: Option<Origin>,
    /// Unanswered probes before the connection is ended (TCP_KEEPCNT).
    pub probes: u32,
    pub probes_origin: Option<Origin>,
    /// TCP_USER_TIMEOUT, milliseconds; 0 = none. If set, the kernel ignores `probes`.
    pub user_timeout_ms: u64,
}

/// Where a setting comes from; null where that is unknown (`list` without BPF).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Set on this socket (or inherited from its listener, where it was set).
    Socket,
    /// Default of the socket's network namespace (`net.ipv4.tcp_keepalive_*`).
    Sysctl,
}
