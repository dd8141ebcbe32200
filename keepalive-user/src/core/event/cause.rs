//! Why a socket ended, and what that means: the one classification that every output uses.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumIter, IntoStaticStr};

/// Why a socket ended.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    JsonSchema,
    EnumIter,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// TCP_KEEPCNT probes unanswered.
    KeepaliveProbes,
    /// TCP_USER_TIMEOUT, checked by the keepalive timer.
    KeepaliveUserTimeout,
    /// Retransmissions of unacknowledged data ran out (`tcp_retries2`).
    RetransmitTimeout,
    /// TCP_USER_TIMEOUT, checked by the retransmission timer.
    RetransmitUserTimeout,
    /// It never connected: no answer to its SYN (`tcp_syn_retries` or TCP_SYNCNT).
    ConnectTimeout,
    /// It never connected: no answer to its SYN until TCP_USER_TIMEOUT.
    ConnectUserTimeout,
    /// It never connected: no answer to its SYN, and the application gave up.
    ConnectAbandoned,
    /// Zero-window probes ran out.
    WindowProbeTimeout,
    /// TCP_USER_TIMEOUT, checked by the zero-window probe timer.
    WindowProbeUserTimeout,
    /// Its data could not be sent on this host (no route, firewall), and the retries ran out
    /// (`tcp_retries2`).
    SendTimeout,
    /// As `send_timeout`, by TCP_USER_TIMEOUT.
    SendUserTimeout,
    /// No process held it any more, and its last data or FIN was not acknowledged
    /// (`tcp_orphan_retries`).
    OrphanTimeout,
    /// As `orphan_timeout`, by TCP_USER_TIMEOUT.
    OrphanUserTimeout,
    /// The kernel dropped an orphan that was not acknowledged, to save memory (`tcp_max_orphans`,
    /// `tcp_mem`).
    OutOfResources,
    /// A RST arrived in the peer's name: from the peer, or from a middlebox.
    PeerReset,
    /// The peer closed first.
    PeerFin,
    /// This side closed first.
    LocalClose,
    /// Its owner aborted it: close with unread data or SO_LINGER 0, or `connect` to AF_UNSPEC.
    LocalAbort,
    /// Its owner was killed by a signal, and the kernel closed the socket.
    OwnerKilled,
    /// Another process had the kernel abort it (`ss -K`, SOCK_DESTROY).
    OutsideAbort,
    /// An ICMP or local error that the kernel treats as final.
    NetworkError,
    Unknown,
}

/// What a cause means for the connection, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Meaning {
    /// A timer of this host ended it: the peer did not answer in time.
    TimedOut,
    /// One end or the network cut it off.
    ResetOrAborted,
    /// One end closed it.
    Orderly,
    /// The end was not seen.
    Unknown,
}

impl Cause {
    pub fn meaning(self) -> Meaning {
        match self {
            Self::KeepaliveProbes
            | Self::KeepaliveUserTimeout
            | Self::RetransmitTimeout
            | Self::RetransmitUserTimeout
            | Self::ConnectTimeout
            | Self::ConnectUserTimeout
            | Self::OrphanTimeout
            | Self::OrphanUserTimeout
            | Self::SendTimeout
            | Self::SendUserTimeout
            | Self::WindowProbeTimeout
            | Self::WindowProbeUserTimeout => Meaning::TimedOut,
            Self::PeerReset
            | Self::LocalAbort
            | Self::ConnectAbandoned
            | Self::OutOfResources
            | Self::OwnerKilled
            | Self::OutsideAbort
            | Self::NetworkError => Meaning::ResetOrAborted,
            Self::PeerFin | Self::LocalClose => Meaning::Orderly,
            Self::Unknown => Meaning::Unknown,
        }
    }
}

/// The setting that limits the time or the number of retries after which a timer ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// TCP_KEEPCNT.
    KeepCount,
    /// TCP_USER_TIMEOUT.
    UserTimeout,
    /// `net.ipv4.tcp_retries2`.
    Retries2,
    /// TCP_SYNCNT, else `net.ipv4.tcp_syn_retries`.
    SynRetries,
    /// `net.ipv4.tcp_orphan_retries`; 0 counts as 8 while the peer may be alive (`tcp_orphan_retries()`).
    OrphanRetries,
}

impl Cause {
    /// The rule, if a timer ended the connection.
    pub fn rule(self) -> Option<Rule> {
        match self {
            Self::KeepaliveProbes => Some(Rule::KeepCount),
            Self::KeepaliveUserTimeout
            | Self::RetransmitUserTimeout
            | Self::ConnectUserTimeout
            | Self::OrphanUserTimeout
            | Self::SendUserTimeout
            | Self::WindowProbeUserTimeout => Some(Rule::UserTimeout),
            Self::RetransmitTimeout | Self::SendTimeout | Self::WindowProbeTimeout => {
                Some(Rule::Retries2)
            }
            Self::ConnectTimeout => Some(Rule::SynRetries),
            Self::OrphanTimeout => Some(Rule::OrphanRetries),
            Self::ConnectAbandoned
            | Self::OutOfResources
            | Self::OwnerKilled
            | Self::OutsideAbort
            | Self::PeerReset
            | Self::PeerFin
            | Self::LocalClose
            | Self::LocalAbort
            | Self::NetworkError
            | Self::Unknown => None,
        }
    }
}

impl Meaning {
    /// Whether the connection ended otherwise than by an orderly close, as far as is known.
    pub fn is_violent(self) -> bool {
        match self {
            Self::TimedOut | Self::ResetOrAborted => true,
            Self::Orderly | Self::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    /// A cause has a rule exactly if a timer ended the connection.
    #[test]
    fn timers_have_rules() {
        for cause in Cause::iter() {
            let timed_out = cause.meaning() == Meaning::TimedOut;
            assert_eq!(cause.rule().is_some(), timed_out, "{cause:?}");
        }
    }
}
