//! A cause of death in words, by where they are shown. Its name and its meaning are in
//! `core::event::cause`.

mod certificate;

use crate::core::{
    event::{Cause, Keepalive, Rule},
    format::{millis, name},
};

/// The values that [`rule`] prints.
#[derive(Clone, Copy, Debug)]
pub struct RuleValues {
    pub probes: u32,
    pub user_timeout_ms: u64,
    /// `None` = unknown.
    pub retries2: Option<u32>,
}

impl RuleValues {
    pub fn new(keepalive: &Keepalive, retries2: Option<u32>) -> Self {
        Self {
            probes: keepalive.probes,
            user_timeout_ms: keepalive.user_timeout_ms,
            retries2,
        }
    }
}

/// The setting that ends a connection with this cause, and its value: `TCP_KEEPCNT 9`.
pub fn rule(cause: Cause, values: RuleValues) -> String {
    match (cause.rule(), values.retries2) {
        (Some(Rule::KeepCount), _) => format!("TCP_KEEPCNT {}", values.probes),
        (Some(Rule::UserTimeout), _) => {
            format!("TCP_USER_TIMEOUT {}", millis(values.user_timeout_ms))
        }
        (Some(Rule::Retries2), Some(retries2)) => format!("tcp_retries2 {retries2}"),
        (Some(Rule::Retries2), None) => "tcp_retries2".to_owned(),
        (Some(Rule::SynRetries), _) => "tcp_syn_retries".to_owned(),
        (Some(Rule::OrphanRetries), _) => "tcp_orphan_retries".to_owned(),
        (None, _) => name(cause).to_owned(),
    }
}

/// In a few words, for a table.
pub fn verdict(cause: Cause) -> &'static str {
    match cause {
        Cause::KeepaliveProbes => "killed: probes unanswered",
        Cause::KeepaliveUserTimeout => "killed: probes and user timeout",
        Cause::RetransmitTimeout => "killed: retransmissions",
        Cause::RetransmitUserTimeout => "killed: data and user timeout",
        Cause::WindowProbeTimeout => "killed: zero window",
        Cause::WindowProbeUserTimeout => "killed: window and user timeout",
        Cause::PeerReset => "reset by the peer",
        Cause::PeerFin => "closed by the peer",
        Cause::LocalClose => "closed by the owner",
        Cause::LocalAbort => "aborted by the owner",
        Cause::OutsideAbort => "aborted from outside",
        Cause::OwnerKilled => "owner killed",
        Cause::SendTimeout | Cause::SendUserTimeout => "killed: could not be sent",
        Cause::OrphanTimeout | Cause::OrphanUserTimeout => "orphan, not acknowledged",
        Cause::OutOfResources => "dropped: out of resources",
        Cause::ConnectTimeout | Cause::ConnectUserTimeout | Cause::ConnectAbandoned => {
            "never connected"
        }
        Cause::NetworkError => "network error",
        Cause::Unknown => "ended unseen",
    }
}

/// After a number of connections, for a headline; none if nothing is wrong.
pub fn headline(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::KeepaliveProbes | Cause::KeepaliveUserTimeout => {
            Some("killed by keepalive: no answer to the last probes")
        }
        Cause::RetransmitTimeout | Cause::RetransmitUserTimeout => {
            Some("killed by retransmission, not by keepalive: data was not acknowledged")
        }
        Cause::ConnectTimeout | Cause::ConnectUserTimeout | Cause::ConnectAbandoned => {
            Some("never established: no answer to the SYN")
        }
        Cause::SendTimeout | Cause::SendUserTimeout => {
            Some("killed because this host could not send their data")
        }
        Cause::OrphanTimeout | Cause::OrphanUserTimeout => {
            Some("closed by the owner, and then given up: the last data was not acknowledged")
        }
        Cause::OutOfResources => {
            Some("dropped by the kernel: too many orphans, or too little memory")
        }
        Cause::OutsideAbort => Some("aborted by another process"),
        Cause::OwnerKilled => Some("closed because the owner was killed"),
        Cause::WindowProbeTimeout | Cause::WindowProbeUserTimeout => {
            Some("killed by zero-window probes")
        }
        Cause::NetworkError => Some("ended by a network error"),
        Cause::PeerReset => Some("reset in the peer's name"),
        Cause::LocalAbort => Some("aborted by the owner"),
        Cause::PeerFin | Cause::LocalClose | Cause::Unknown => None,
    }
}

/// What prevents this end of an open connection, as the beginning of a sentence.
pub fn unless(cause: Cause) -> &'static str {
    prevention(cause).0
}

/// As [`unless`], at the end of a line.
pub fn unless_briefly(cause: Cause) -> &'static str {
    prevention(cause).1
}

fn prevention(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::RetransmitTimeout
        | Cause::RetransmitUserTimeout
        | Cause::OrphanTimeout
        | Cause::OrphanUserTimeout => ("Unless the data is acknowledged", "unless acknowledged"),
        Cause::WindowProbeTimeout => ("Unless the peer answers", "unless answered"),
        Cause::SendTimeout | Cause::SendUserTimeout => {
            ("Unless this host can send the data", "unless sent")
        }
        // `icsk_probes_tstamp` is cleared only when the window has room (`tcp_ack_probe`).
        Cause::WindowProbeUserTimeout => ("Unless the window opens", "unless the window opens"),
        Cause::ConnectTimeout | Cause::ConnectUserTimeout => {
            ("Unless the peer answers the SYN", "unless answered")
        }
        Cause::KeepaliveProbes
        | Cause::KeepaliveUserTimeout
        | Cause::ConnectAbandoned
        | Cause::OutOfResources
        | Cause::OutsideAbort
        | Cause::OwnerKilled
        | Cause::PeerReset
        | Cause::PeerFin
        | Cause::LocalClose
        | Cause::LocalAbort
        | Cause::NetworkError
        | Cause::Unknown => ("Unless a segment from the peer arrives", "unless answered"),
    }
}

pub use self::certificate::certificate;

#[cfg(test)]
mod tests;
