//! A cause of death in words, by where they are shown. Its name and its meaning are in
//! `core::event::cause`.

use crate::core::{
    event::{Cause, Closed, Keepalive, Rule, TcpState},
    format::{millis, name, plural, tenths},
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
        Cause::ConnectTimeout => "never connected",
        Cause::NetworkError => "network error",
        Cause::Unknown => "ended unseen",
    }
}

/// After a number of connections, for a headline; none if nothing is wrong.
pub fn headline(cause: Cause) -> Option<&'static str> {
    match cause {
        Cause::KeepaliveProbes | Cause::KeepaliveUserTimeout => {
            Some("killed by keepalive: no answer to any probe")
        }
        Cause::RetransmitTimeout | Cause::RetransmitUserTimeout => {
            Some("killed by retransmission, not by keepalive: data was not acknowledged")
        }
        Cause::ConnectTimeout => Some("never established: no answer to the SYN"),
        Cause::WindowProbeTimeout | Cause::WindowProbeUserTimeout => {
            Some("killed by zero-window probes")
        }
        Cause::NetworkError => Some("ended by a network error"),
        Cause::PeerReset => Some("reset by the peer"),
        Cause::LocalAbort => Some("aborted by the owner"),
        Cause::PeerFin | Cause::LocalClose | Cause::Unknown => None,
    }
}

/// What prevents this end of an open connection.
pub fn unless(cause: Cause) -> &'static str {
    match cause {
        Cause::RetransmitTimeout | Cause::RetransmitUserTimeout => {
            "Unless the data is acknowledged"
        }
        Cause::WindowProbeTimeout => "Unless the peer answers",
        Cause::KeepaliveProbes
        | Cause::KeepaliveUserTimeout
        | Cause::ConnectTimeout
        | Cause::WindowProbeUserTimeout
        | Cause::PeerReset
        | Cause::PeerFin
        | Cause::LocalClose
        | Cause::LocalAbort
        | Cause::NetworkError
        | Cause::Unknown => "Unless a segment from the peer arrives",
    }
}

/// A death certificate, in one clause; `heard` is when the last segment from the peer arrived.
pub fn certificate(closed: &Closed, keepalive: &Keepalive, heard: &str) -> String {
    let timeout = millis(keepalive.user_timeout_ms);
    let probes = plural(closed.probes_out.into(), "probe");
    let window_probes = plural(closed.probes_out.into(), "zero-window probe");
    let retransmissions = plural(closed.retransmits.into(), "retransmission");
    let heard = last_segment(closed, heard);
    let never_ran = if keepalive.enabled && closed.totals.keepalive_probes == 0 {
        "; keepalive never ran"
    } else {
        ""
    };
    match closed.cause {
        Cause::KeepaliveProbes => {
            let over = probed_for(closed, keepalive);
            format!("no answer to {probes}{over}; {heard}; killed by keepalive")
        }
        Cause::KeepaliveUserTimeout => format!(
            "TCP_USER_TIMEOUT {timeout} ended it after {} of {} probes; {heard}; killed by keepalive",
            closed.probes_out, keepalive.probes
        ),
        Cause::RetransmitTimeout => format!(
            "{retransmissions} of unacknowledged data; {heard}; killed by retransmission{never_ran}"
        ),
        Cause::RetransmitUserTimeout => format!(
            "TCP_USER_TIMEOUT {timeout} ended it after {retransmissions} of unacknowledged data; \
             {heard}; killed by retransmission{never_ran}"
        ),
        Cause::ConnectTimeout => {
            format!("never connected: no answer to the SYN and {retransmissions}")
        }
        Cause::WindowProbeTimeout => {
            format!("no answer to {window_probes}; {heard}; killed by zero-window probes")
        }
        Cause::WindowProbeUserTimeout => format!(
            "TCP_USER_TIMEOUT {timeout} ended it after {window_probes}; {heard}; killed by \
             zero-window probes"
        ),
        Cause::PeerReset => reset_by_peer(closed).to_owned(),
        Cause::PeerFin => "closed by the peer first".to_owned(),
        Cause::LocalClose => closed_by_owner(closed, keepalive),
        Cause::LocalAbort => "aborted by its owner".to_owned(),
        Cause::NetworkError => {
            let error = closed.error.map(|error| error.to_string());
            format!(
                "ended by a network error: {}",
                error.as_deref().unwrap_or("unknown")
            )
        }
        Cause::Unknown => "ended, the cause was not seen".to_owned(),
    }
}

fn last_segment(closed: &Closed, heard: &str) -> String {
    match closed.idle_ms {
        Some(idle) => format!(
            "last segment from the peer at {heard}, {} ago",
            millis(idle)
        ),
        None => "no segment from the peer was received".to_owned(),
    }
}

fn reset_by_peer(closed: &Closed) -> &'static str {
    if closed.probes_out > 0 {
        "reset by the peer in answer to a probe"
    } else if closed.from_state == TcpState::SynSent {
        "never connected: refused by the peer"
    } else {
        "reset by the peer"
    }
}

/// How long it was probed: the first probe was sent after the idle time without a segment.
fn probed_for(closed: &Closed, keepalive: &Keepalive) -> String {
    closed.idle_ms.map_or_else(String::new, |idle| {
        let probed = idle.saturating_sub(keepalive.time_ms);
        format!(" over {}", tenths(probed / 100, "s"))
    })
}

/// The owner closed first: what keepalive had done until then.
fn closed_by_owner(closed: &Closed, keepalive: &Keepalive) -> String {
    const ALONE: &str = "not caused by keepalive";
    let totals = &closed.totals;
    match closed.lifetime_ms {
        _ if closed.probes_out > 0 => {
            let probes = plural(closed.probes_out.into(), "probe");
            format!("closed by its owner first, {probes} unanswered")
        }
        _ if !keepalive.enabled => "closed by its owner first".to_owned(),
        _ if totals.keepalive_probes > 0 => format!(
            "closed by its owner first; the peer answered {} of {}; {ALONE}",
            totals.keepalive_answers,
            plural(totals.keepalive_probes, "probe")
        ),
        // The tracer saw both its beginning and its end.
        Some(lifetime) if lifetime < keepalive.time_ms => format!(
            "closed by its owner first, {} after it was opened; the first probe was due after {} \
             without a segment from the peer: therefore no probe was sent; {ALONE}",
            millis(lifetime),
            millis(keepalive.time_ms)
        ),
        _ => format!("closed by its owner first, before a probe was due; {ALONE}"),
    }
}

#[cfg(test)]
mod tests;
