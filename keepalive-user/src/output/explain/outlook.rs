//! What prevents the next probe, or when it is sent, in sentences.

use super::in_time;
use crate::core::{
    event::{Blocker, Cause, ListedSocket, NextProbe, Outlook, Plan},
    format::{millis, plural},
};

/// The sentence that explains the outlook.
pub fn why(outlook: Outlook, socket: &ListedSocket, plan: Option<&Plan>) -> String {
    let next = socket.next_probe;
    let timer = next.map_or_else(|| "later".to_owned(), |next| in_time(next.timer_ms));
    match outlook {
        Outlook::KeepaliveOff => {
            "No probe will be sent: SO_KEEPALIVE is off (HTTP keep-alive does not switch it on). \
             While the connection is idle nothing detects that the peer is gone."
                .to_owned()
        }
        Outlook::NotConnected => {
            "No probe is sent in this state; connections accepted from a listener inherit its \
             settings."
                .to_owned()
        }
        Outlook::DataInFlight => format!(
            "No probe while data is unacknowledged ({}): retransmission decides when the \
             connection ends, and keepalive only re-arms its timer ({}).",
            plural(socket.send_queue.into(), "byte"),
            match next {
                Some(_) => format!("which runs {timer}"),
                None => "which is hidden behind the retransmission timer".to_owned(),
            }
        ),
        Outlook::ZeroWindow => format!(
            "No keepalive probe while the peer's window is closed and data waits to be sent ({}): \
             zero-window probes are sent instead ({} unanswered{}).",
            plural(socket.send_queue.into(), "byte"),
            socket.probes_out,
            socket
                .zero_window_ms
                .map_or_else(String::new, |since| format!(
                    ", the first {} ago: the peer's program does not read",
                    millis(since)
                ))
        ),
        Outlook::SendFails => format!(
            "{} cannot be sent from this host, although the peer's window is open (no route, a \
             firewall or a full queue here): tried again by the zero-window probe timer ({} so far), \
             and no keepalive probe meanwhile.",
            plural(socket.send_queue.into(), "byte"),
            plural(socket.probes_out.into(), "attempt")
        ),
        Outlook::DataUnsent => format!(
            "No probe while data waits to be sent ({}); the timer runs {timer}.",
            plural(socket.send_queue.into(), "byte")
        ),
        Outlook::FinWait2 => {
            "The running timer is the FIN_WAIT2 timer, not keepalive: no process holds this socket \
             any more, and it waits for the peer's FIN."
                .to_owned()
        }
        Outlook::Probing => probing(socket, plan, &timer),
        Outlook::NotIdle => next.map_or_else(
            || "SO_KEEPALIVE is on, but the keepalive timer does not run.".to_owned(),
            |next| waiting(next, &timer),
        ),
        Outlook::Unknown => {
            "Whether a probe will be sent is unknown as well: see `keepalive doctor`.".to_owned()
        }
    }
}

/// Probes are unanswered; the next run of the timer sends another or ends the connection.
fn probing(socket: &ListedSocket, plan: Option<&Plan>, timer: &str) -> String {
    let of = match plan {
        Some(plan) if plan.rule == Cause::KeepaliveProbes => format!(" of {}", plan.probes.most),
        Some(_) | None => String::new(),
    };
    let run = match socket.next_probe.and_then(|next| next.blocked_by) {
        Some(Blocker::ConnectionEnds) => "ends the connection",
        Some(Blocker::DataInFlight | Blocker::DataUnsent | Blocker::TimerStops) | None => {
            "sends another"
        }
    };
    let probes = plural(socket.probes_out.into(), "probe");
    format!("{probes}{of} unanswered; the next run of the timer, {timer}, {run}.")
}

/// The first probe only waits for the idle time.
fn waiting(next: NextProbe, timer: &str) -> String {
    let earliest = next.earliest_ms.unwrap_or(next.timer_ms);
    let lazy = if earliest > next.timer_ms {
        format!(
            " (the timer runs {timer}, finds that a segment from the peer arrived since it was \
             set, and is re-armed for the rest)"
        )
    } else {
        String::new()
    };
    format!(
        "The next probe can leave {} at the earliest, if nothing is received until then{lazy}.",
        in_time(earliest)
    )
}
