//! Connections on which one side does not do its part: it does not acknowledge, read, accept or close.

use std::sync::Arc;

use super::{Case, Violation};
use crate::core::{
    event::{ListedDeath, Process, Rule, TcpState, TimerKind},
    format::{millis, name, plural},
};

pub fn suppressed(case: &Case<'_>) -> Option<Violation> {
    /// Fewer retransmissions are normal packet loss.
    const RETRIES: u32 = 3;
    let keepalive = case.keepalive()?;
    let stuck = case
        .socket
        .timers
        .iter()
        .find(|timer| timer.kind == TimerKind::Retransmit && timer.retries >= RETRIES)
        .filter(|_| case.socket.socket.state != TcpState::SynSent)?;
    let suppressed = if keepalive.enabled {
        "keepalive does not run; "
    } else {
        ""
    };
    Some(Violation {
        evidence: format!(
            "{} sent and not acknowledged, {} so far",
            plural(case.socket.send_queue.into(), "byte"),
            plural(stuck.retries.into(), "retransmission")
        ),
        consequence: format!("{suppressed}the connection ends {}", ends(case)),
        remedy: sooner(case),
    })
}

/// When it ends, and by which rule.
fn ends(case: &Case<'_>) -> String {
    let Some(ListedDeath {
        in_ms,
        rule,
        is_estimate,
    }) = case.socket.death
    else {
        return "at an unknown time".to_owned();
    };
    let timeout = case.keepalive().map_or(0, |it| it.user_timeout_ms);
    let about = if is_estimate { "about " } else { "" };
    let rule = match rule.rule() {
        Some(Rule::UserTimeout) => format!("TCP_USER_TIMEOUT {}", millis(timeout)),
        Some(Rule::Retries2) => match case.socket.retries2 {
            Some(retries) => format!("tcp_retries2 {retries}"),
            None => "tcp_retries2".to_owned(),
        },
        Some(Rule::OrphanRetries) => "tcp_orphan_retries (0 counts as 8)".to_owned(),
        Some(Rule::SynRetries) => "tcp_syn_retries".to_owned(),
        Some(Rule::KeepCount) => "TCP_KEEPCNT".to_owned(),
        None => name(rule).to_owned(),
    };
    format!("in {about}{}, by {rule}", millis(in_ms))
}

/// What ends it sooner than it ends anyway.
fn sooner(case: &Case<'_>) -> String {
    /// From the first retransmission on, milliseconds.
    const ADVISED_MS: u64 = 60_000;
    let timeout = case.keepalive().map_or(0, |it| it.user_timeout_ms);
    let total = case
        .plan
        .map(|plan| plan.unacknowledged_data.after_ms.least);
    if case.socket.orphan {
        format!(
            "a smaller net.ipv4.tcp_orphan_retries (1 to 7; 0 counts as 8) in network namespace {} ends such \
             sockets sooner",
            case.socket.socket.netns
        )
    } else if timeout > 0 {
        format!("setsockopt TCP_USER_TIMEOUT below {timeout} (ms) ends it sooner")
    } else if total.is_some_and(|total| total <= ADVISED_MS) {
        "none needed: it ends sooner than by a TCP_USER_TIMEOUT of 60 s".to_owned()
    } else {
        format!(
            "setsockopt TCP_USER_TIMEOUT = {ADVISED_MS} ends it 60 s after the first retransmission"
        )
    }
}

/// The peer's FIN was acknowledged, and the program did not close: `rcv_tstamp` is not older than the FIN.
pub fn close_wait(case: &Case<'_>) -> Option<Violation> {
    let socket = case.socket;
    let since = socket.last_ack_ms?;
    let is_leaked = socket.socket.state == TcpState::CloseWait
        && !socket.orphan
        && !socket.not_accepted
        && since >= case.soon_ms();
    is_leaked.then(|| Violation {
        evidence: format!(
            "close_wait: the peer has closed its side, {} has not for at least {}{}",
            owner(socket.process.as_ref()),
            millis(since),
            match socket.receive_queue {
                0 => String::new(),
                unread => format!("; {} not read", plural(unread.into(), "byte")),
            }
        ),
        consequence: if socket.death.is_some() {
            format!("the program leaks the socket: the connection ends {}", ends(case))
        } else if case.is_off() {
            "the program leaks the socket: no timer ends it".to_owned()
        } else {
            "the program leaks the socket: it stays until a keepalive probe finds that the peer has \
             forgotten it"
                .to_owned()
        },
        remedy: format!(
            "close it in {} (its read has returned, or will return, 0)",
            owner(socket.process.as_ref())
        ),
    })
}

pub fn not_accepted(case: &Case<'_>) -> Option<Violation> {
    /// A program that is only busy accepts sooner.
    const WAITS_MS: u64 = 1000;
    let socket = case.socket;
    let since = socket
        .silence_ms
        .filter(|&since| socket.not_accepted && since >= WAITS_MS)?;
    let (queue, listener) = match &socket.accept_queue {
        Some(queue) => (
            format!(
                "in the queue of LISTEN {} ({}), {} of at most {}",
                queue.listener,
                owner(queue.process.as_ref()),
                queue.length,
                queue.most
            ),
            owner(queue.process.as_ref()),
        ),
        None => ("its listener is not listed".to_owned(), owner(None)),
    };
    let closed = if socket.socket.state == TcpState::CloseWait {
        "; the peer has closed meanwhile"
    } else {
        ""
    };
    Some(Violation {
        evidence: format!(
            "not accepted for at least {}: {queue}{closed}",
            millis(since)
        ),
        consequence: "the peer is connected, and no process reads what it sends or answers it"
            .to_owned(),
        remedy: format!("accept it in {listener}"),
    })
}

/// Which side's program does not read, and since when.
pub fn not_read(case: &Case<'_>) -> Option<Violation> {
    let socket = case.socket;
    if let Some(closed) = socket.zero_window_ms.filter(|&ms| ms >= case.soon_ms()) {
        return Some(not_read_there(case, closed));
    }
    let since = socket.last_data_ms.filter(|&ms| ms >= case.soon_ms())?;
    (socket.receive_queue > 0 && case.lasts()).then(|| Violation {
        evidence: format!(
            "{} received, and not read by {}; the last {} ago{}",
            plural(socket.receive_queue.into(), "byte"),
            owner(socket.process.as_ref()),
            millis(since),
            socket.peer_probe_ms.map_or_else(String::new, |ago| format!(
                ", the peer's last probe {} ago",
                millis(ago)
            ))
        ),
        consequence: "this side does not read: once its buffer is full, the peer cannot send"
            .to_owned(),
        remedy: format!(
            "read in {}, or close the connection",
            owner(socket.process.as_ref())
        ),
    })
}

/// The peer acknowledges, and offers no window.
fn not_read_there(case: &Case<'_>, closed: u64) -> Violation {
    let socket = case.socket;
    let is_unanswered = socket.probes_out > 0;
    let by_timeout = socket
        .death
        .is_some_and(|death| death.rule.rule() == Some(Rule::UserTimeout));
    let end = if is_unanswered {
        format!("unless it answers the connection ends {}", ends(case))
    } else if by_timeout || socket.orphan {
        format!("unless it reads the connection ends {}", ends(case))
    } else {
        "the connection does not end while the peer answers zero-window probes".to_owned()
    };
    Violation {
        evidence: format!(
            "{} wait: the peer's window is closed, for at least {}",
            plural(socket.send_queue.into(), "byte"),
            millis(closed)
        ),
        consequence: if is_unanswered {
            let probes = plural(socket.probes_out.into(), "zero-window probe");
            format!("{probes} unanswered: the peer may be gone, or does not read; {end}")
        } else {
            format!("the peer's program does not read; {end}")
        },
        remedy: if by_timeout || socket.orphan {
            "read, or close the connection, in the peer's program".to_owned()
        } else {
            "read, or close the connection, in the peer's program; setsockopt TCP_USER_TIMEOUT here \
             limits how long data waits"
                .to_owned()
        },
    }
}

/// `nginx/801`.
fn owner(process: Option<&Arc<Process>>) -> String {
    process.map_or_else(
        || "its program".to_owned(),
        |process| format!("{}/{}", process.comm, process.pid),
    )
}
