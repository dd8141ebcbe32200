//! # The outlook of one socket
//!
//! What must happen before a keepalive probe is sent, what the timer last did, and what the settings mean.

use std::net::IpAddr;

use super::{
    arithmetic,
    event::{
        Blocker, Explanation, LastAction, LastRun, ListedSocket, Outlook, Sysctls, TcpState,
        TimerKind,
    },
};

/// Explains a socket. `sysctls` are its namespace's defaults, `host` those of the host if that is
/// another namespace; `hz` is the kernel's ticks per second. What is unknown is `None`.
pub fn explain(
    socket: &ListedSocket,
    sysctls: Option<Sysctls>,
    host: Option<Sysctls>,
    hz: Option<u32>,
) -> Explanation {
    let plan = arithmetic::plan_of(socket, hz);
    let connected = !matches!(
        socket.socket.state,
        TcpState::Listen | TcpState::Close | TcpState::TimeWait | TcpState::SynRecv
    );
    Explanation {
        matched: None,
        outlook: Some(outlook(socket)),
        last_run: last_run(socket),
        sysctl: sysctls,
        host_sysctl: host,
        owner_closes: None,
        peer_closes: None,
        plan: plan.filter(|_| connected),
        capture_filter: connected.then(|| capture_filter(socket)),
        socket: Some(Box::new(socket.clone())),
    }
}

/// What the timer last did, inferred from its deadline: after a probe the timer is set for the interval,
/// otherwise for the idle time or the rest of it.
fn last_run(socket: &ListedSocket) -> Option<LastRun> {
    /// Upper bound for the round-trip time of an answer.
    const AT_ONCE_MS: u64 = 1000;
    let keepalive = socket.keepalive.filter(|keepalive| keepalive.enabled)?;
    let timer = |kind| socket.timers.iter().find(|timer| timer.kind == kind);
    let left = timer(TimerKind::Keepalive)?.in_ms;
    let (time, interval) = (keepalive.time_ms, keepalive.interval_ms);
    let after_probe = interval.checked_sub(left);
    let run = |action| move |ago_ms| LastRun { ago_ms, action };
    if socket.runs(TimerKind::WindowProbe) || socket.runs(TimerKind::SendRetry) {
        None
    } else if socket.probes_out > 0 {
        after_probe.map(run(LastAction::ProbeSent))
    } else if left > interval {
        time.checked_sub(left).map(run(LastAction::Armed))
    } else if interval < time {
        let silence = socket.silence_ms?;
        after_probe
            .filter(|ago| ago.checked_sub(silence).is_some_and(|rtt| rtt < AT_ONCE_MS))
            .map(run(LastAction::ProbeAnswered))
    } else {
        None
    }
}

/// What must happen before a probe is sent: the first condition that applies, in the order in which
/// `tcp_keepalive_timer` checks them.
fn outlook(socket: &ListedSocket) -> Outlook {
    match socket.socket.state {
        TcpState::Listen
        | TcpState::Close
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::TimeWait => return Outlook::NotConnected,
        TcpState::Established
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv
        | TcpState::BoundInactive
        | TcpState::Unknown => {}
    }
    if socket.runs(TimerKind::FinWait2) {
        return Outlook::FinWait2;
    }
    let Some(keepalive) = &socket.keepalive else {
        return Outlook::Unknown;
    };
    let blocked = socket.next_probe.and_then(|next| next.blocked_by);
    if socket.runs(TimerKind::WindowProbe) {
        Outlook::ZeroWindow
    } else if socket.runs(TimerKind::SendRetry) {
        Outlook::SendFails
    } else if !keepalive.enabled {
        Outlook::KeepaliveOff
    } else if blocked == Some(Blocker::DataInFlight) || socket.runs(TimerKind::Retransmit) {
        Outlook::DataInFlight
    } else if blocked == Some(Blocker::DataUnsent) {
        Outlook::DataUnsent
    } else if socket.probes_out > 0 {
        Outlook::Probing
    } else {
        Outlook::NotIdle
    }
}

/// A probe is an ACK without data: it has no distinctive flag or port.
fn capture_filter(socket: &ListedSocket) -> String {
    let (local, peer) = (&socket.socket.local, &socket.socket.peer);
    let (family, length) = match peer.address {
        IpAddr::V4(_) => (
            "ip",
            "ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) == 0",
        ),
        // tcpdump cannot skip IPv6 extension headers; a probe has none.
        IpAddr::V6(_) => ("ip6", "ip6[4:2] - ((ip6[52] & 0xf0) >> 2) == 0"),
    };
    let both = |kind: &str, [one, other]: [String; 2]| {
        if one == other {
            format!("{kind} {one}")
        } else {
            format!("{kind} {one} and {kind} {other}")
        }
    };
    let hosts = both("host", [local, peer].map(|end| end.address.to_string()));
    let ports = both("port", [local, peer].map(|end| end.port.to_string()));
    format!("{family} and tcp and {hosts} and {ports} and {length}")
}

#[cfg(test)]
mod tests;
