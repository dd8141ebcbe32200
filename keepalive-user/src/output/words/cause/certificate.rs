//! A death certificate in words: what ended the connection, since when, and what the application saw.

use super::super::outage_words;
use crate::core::{
    event::{Cause, Closed, ClosedBy, Errno, Keepalive, Rule, TcpState},
    format::{escape, millis, plural, tenths},
};

/// A reset this long after a probe is not called its answer, milliseconds: the kernel's first estimate of
/// a round trip (RFC 6298).
const PROMPT_MS: u64 = 1000;
/// A shorter silence before a reset is not worth a word, milliseconds.
const SILENT_MS: u64 = 1000;

/// A death certificate, in one sentence; `heard` is when the last segment from the peer arrived.
pub fn certificate(closed: &Closed, keepalive: &Keepalive, heard: &str) -> String {
    let sentence = sentence(closed, keepalive, heard);
    match closed.error {
        Some(error) if !closed.orphan => format!("{sentence}; {}", application_got(error)),
        Some(_) | None => sentence,
    }
}

fn sentence(closed: &Closed, keepalive: &Keepalive, heard: &str) -> String {
    let heard = last_segment(closed, heard);
    match closed.cause {
        Cause::KeepaliveProbes | Cause::KeepaliveUserTimeout => {
            format!(
                "{}; {heard}; killed by keepalive",
                unanswered(closed, keepalive)
            )
        }
        Cause::RetransmitTimeout | Cause::RetransmitUserTimeout => format!(
            "{}{} of unacknowledged data; {heard}; killed by retransmission{}",
            after_timeout(closed, keepalive),
            retransmissions(closed),
            never_ran(closed, keepalive)
        ),
        Cause::ConnectTimeout => format!(
            "{}, all that tcp_syn_retries or TCP_SYNCNT allow",
            unconnected(closed)
        ),
        Cause::ConnectUserTimeout => format!(
            "{}; killed by TCP_USER_TIMEOUT {}",
            unconnected(closed),
            millis(keepalive.user_timeout_ms)
        ),
        Cause::ConnectAbandoned => format!("{}; {}", unconnected(closed), gave_up(closed)),
        Cause::WindowProbeTimeout => {
            format!("{}; {heard}; killed by zero-window probes", shut(closed))
        }
        Cause::WindowProbeUserTimeout => format!(
            "TCP_USER_TIMEOUT {} ended it: the peer's window stayed closed; {heard}; killed by \
             zero-window probes",
            millis(keepalive.user_timeout_ms)
        ),
        Cause::SendTimeout => format!("{}; killed by tcp_retries2", unsendable(closed)),
        Cause::SendUserTimeout => format!(
            "{}; killed by TCP_USER_TIMEOUT {}",
            unsendable(closed),
            millis(keepalive.user_timeout_ms)
        ),
        Cause::OrphanTimeout => format!("{}; killed by tcp_orphan_retries", orphan(closed, &heard)),
        Cause::OrphanUserTimeout => format!(
            "{}; killed by TCP_USER_TIMEOUT {}",
            orphan(closed, &heard),
            millis(keepalive.user_timeout_ms)
        ),
        Cause::OutOfResources => format!(
            "{}; dropped by the kernel: too many orphans (tcp_max_orphans), or too little memory \
             (tcp_mem)",
            orphan(closed, &heard)
        ),
        Cause::PeerReset => reset(closed),
        Cause::PeerFin => "closed by the peer first".to_owned(),
        Cause::LocalClose => closed_by_owner(closed, keepalive),
        Cause::LocalAbort => aborted(closed),
        Cause::OwnerKilled => format!("closed because its owner was killed{}", by_signal(closed)),
        Cause::OutsideAbort => format!("aborted from outside{}", by_process(closed)),
        Cause::NetworkError => "ended by a network error".to_owned(),
        Cause::Unknown => "ended, the cause was not seen".to_owned(),
    }
}

/// The probes that keepalive ended it after.
fn unanswered(closed: &Closed, keepalive: &Keepalive) -> String {
    let probes = plural(closed.probes_out.into(), "probe");
    if closed.cause.rule() == Some(Rule::UserTimeout) {
        let timeout = millis(keepalive.user_timeout_ms);
        format!("TCP_USER_TIMEOUT {timeout} ended it after {probes} without an answer")
    } else {
        let outage = closed.outage.map_or_else(String::new, |outage| {
            let left = if outage.is_certain() {
                "they did not leave this host, "
            } else {
                ""
            };
            format!(": {left}{}", outage_words(outage))
        });
        format!("no answer to {probes}{}{outage}", probed_for(closed))
    }
}

/// A window that stayed closed. Over data in flight the kernel retransmits without counting
/// (`tcp_rtx_probe0_timed_out`).
fn shut(closed: &Closed) -> String {
    match closed.probes_out {
        0 => "the peer's window closed over data in flight, and nothing more was heard".to_owned(),
        probes => format!(
            "no answer to {}",
            plural(probes.into(), "zero-window probe")
        ),
    }
}

fn after_timeout(closed: &Closed, keepalive: &Keepalive) -> String {
    if closed.cause.rule() == Some(Rule::UserTimeout) {
        let timeout = millis(keepalive.user_timeout_ms);
        format!("TCP_USER_TIMEOUT {timeout} ended it after ")
    } else {
        String::new()
    }
}

fn never_ran(closed: &Closed, keepalive: &Keepalive) -> &'static str {
    if keepalive.enabled && closed.totals.keepalive_probes == 0 {
        "; keepalive never ran"
    } else {
        ""
    }
}

fn unconnected(closed: &Closed) -> String {
    format!(
        "never connected: no answer to the SYN and {}",
        retransmissions(closed)
    )
}

/// Data that the persist timer retried although the window was open.
fn unsendable(closed: &Closed) -> String {
    format!(
        "{} could not be sent from this host (no route, a firewall), tried {} times",
        plural(closed.undelivered_bytes.into(), "byte"),
        closed.probes_out
    )
}

/// What system calls on the socket returned then.
fn application_got(error: Errno) -> String {
    match error.meaning() {
        Some(meaning) => format!("the application got {error} ({meaning})"),
        None => format!("the application got {error}"),
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

/// How many, and since when if that is known.
fn retransmissions(closed: &Closed) -> String {
    let count = plural(closed.retransmits.into(), "retransmission");
    match closed.retransmitting_ms {
        Some(ms) => format!("{count} in {}", millis(ms)),
        None => count,
    }
}

/// What an orphan was still to deliver.
fn orphan(closed: &Closed, heard: &str) -> String {
    let what = match closed.undelivered_bytes {
        0 => "its FIN was not acknowledged".to_owned(),
        bytes => format!("{} undelivered", plural(bytes.into(), "byte")),
    };
    let tries = match (closed.outage, closed.retransmits, closed.probes_out) {
        (Some(outage), ..) => format!("not sent from this host, {}", outage_words(outage)),
        (None, 0, 0) => "the peer's window stayed closed".to_owned(),
        (None, 0, probes) => plural(probes.into(), "unanswered zero-window probe"),
        (None, retransmits, _) => plural(retransmits.into(), "retransmission"),
    };
    format!(
        "given up after {}: {what}, {tries}; {heard}",
        had_closed(closed)
    )
}

/// How an orphan lost its owner.
fn had_closed(closed: &Closed) -> String {
    match &closed.closed_by {
        Some(ClosedBy {
            signal: Some(_), ..
        }) => format!("its owner was killed{}", by_signal(closed)),
        Some(ClosedBy { exiting: true, .. }) => "its owner had exited".to_owned(),
        Some(_) | None => "its owner had closed it".to_owned(),
    }
}

/// How an attempt to connect ended.
fn gave_up(closed: &Closed) -> String {
    match &closed.closed_by {
        Some(ClosedBy {
            signal: Some(_), ..
        }) => format!("the application was killed{}", by_signal(closed)),
        Some(ClosedBy { exiting: true, .. }) => "the application exited".to_owned(),
        Some(_) | None => "the application gave up".to_owned(),
    }
}

/// Middleboxes send resets in the name of the peer.
fn reset(closed: &Closed) -> String {
    if closed.from_state == TcpState::SynSent {
        return "never connected: refused in the peer's name".to_owned();
    }
    let after = match closed.last_probe_ms.filter(|&ms| ms <= PROMPT_MS) {
        Some(0) => "reset in the peer's name right after a probe".to_owned(),
        Some(ms) => format!("reset in the peer's name, {} after a probe", millis(ms)),
        None => "reset in the peer's name".to_owned(),
    };
    match closed.idle_ms.filter(|&ms| ms > SILENT_MS) {
        Some(idle) => format!(
            "{after}, after {} of silence: the peer no longer has the connection, or a NAT, firewall or load \
             balancer forgot it",
            millis(idle)
        ),
        None => after,
    }
}

/// Since the first unanswered probe.
fn probed_for(closed: &Closed) -> String {
    closed
        .probing_ms
        .map_or_else(String::new, |ms| format!(" over {}", tenths(ms / 100, "s")))
}

fn aborted(closed: &Closed) -> String {
    let exiting = closed.closed_by.as_ref().is_some_and(|by| by.exiting);
    let how = if exiting { ", which exited" } else { "" };
    format!("aborted by its owner{how}{}", unread(closed))
}

/// `tcp_close` with unread data sends a RST (RFC 2525, section 2.17).
fn unread(closed: &Closed) -> &'static str {
    match closed.from_state {
        TcpState::SynSent | TcpState::SynRecv => " before it was established",
        TcpState::Established | TcpState::CloseWait => {
            ": closed with unread data or SO_LINGER 0, or disconnected"
        }
        TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::Close
        | TcpState::LastAck
        | TcpState::Listen
        | TcpState::Closing
        | TcpState::NewSynRecv
        | TcpState::BoundInactive
        | TcpState::Unknown => "",
    }
}

fn by_signal(closed: &Closed) -> String {
    let signal = closed.closed_by.as_ref().and_then(|by| by.signal);
    match signal {
        Some(9) => " by SIGKILL (kill -9, the OOM killer)".to_owned(),
        Some(signal) => format!(" by signal {signal}"),
        None => String::new(),
    }
}

fn by_process(closed: &Closed) -> String {
    let by = closed.closed_by.as_ref();
    let process = by.map_or_else(String::new, |ClosedBy { pid, comm, .. }| {
        format!(" by {}/{pid}", escape(comm))
    });
    format!("{process} (SOCK_DESTROY, as of ss -K)")
}

/// The owner closed first: what keepalive had done until then.
fn closed_by_owner(closed: &Closed, keepalive: &Keepalive) -> String {
    const ALONE: &str = "not caused by keepalive";
    let totals = &closed.totals;
    let first = match &closed.closed_by {
        Some(by) if by.exiting => "closed because its owner exited",
        Some(_) | None => "closed by its owner first",
    };
    match closed.lifetime_ms {
        _ if closed.probes_out > 0 => {
            let probes = plural(closed.probes_out.into(), "probe");
            format!("{first}, {probes} unanswered")
        }
        _ if !keepalive.enabled => first.to_owned(),
        _ if totals.keepalive_probes > 0 => format!(
            "{first}; the peer answered {} of {}; {ALONE}",
            totals.keepalive_answers,
            plural(totals.keepalive_probes, "probe")
        ),
        // The tracer saw both its beginning and its end.
        Some(lifetime) if lifetime < keepalive.time_ms => format!(
            "{first}, {} after it was opened; the first probe was due after {} \
             without a segment from the peer: therefore no probe was sent; {ALONE}",
            millis(lifetime),
            millis(keepalive.time_ms)
        ),
        _ => format!("{first}, before a probe was due; {ALONE}"),
    }
}
