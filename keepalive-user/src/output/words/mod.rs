//! # Words
//!
//! What the text outputs share: times of day, owners and settings here, causes of death in `cause`, what
//! was not seen in `losses`. Plain numbers and durations are in `core::format`.

mod cause;
mod losses;

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};

pub use self::{
    cause::{RuleValues, certificate, headline, rule, unless, verdict},
    losses::{losses_text, lost_words, missed_words},
};
use crate::core::{
    event::{Keepalive, Process},
    format::{escape, millis},
};

/// Local time of day.
pub fn clock(timestamp: Timestamp, zone: &TimeZone) -> String {
    let local = zone.to_datetime(timestamp);
    format!(
        "{:02}:{:02}:{:02}",
        local.hour(),
        local.minute(),
        local.second()
    )
}

/// Local time of day, with the date if it is not that of `now`.
pub fn moment(timestamp: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (then, today) = (
        zone.to_datetime(timestamp).date(),
        zone.to_datetime(now).date(),
    );
    let clock = clock(timestamp, zone);
    if then == today {
        clock
    } else {
        format!("{then} {clock}")
    }
}

/// As [`clock`], to the millisecond.
pub fn clock_ms(timestamp: Timestamp, zone: &TimeZone) -> String {
    let local = zone.to_datetime(timestamp);
    format!("{}.{:03}", clock(timestamp, zone), local.millisecond())
}

/// `sshd/1036`, `?` if unknown.
pub fn owner(process: Option<&Arc<Process>>) -> String {
    process.map_or_else(
        || "?".to_owned(),
        |process| format!("{}/{}", escape(&process.comm), process.pid),
    )
}

/// The keepalive settings.
pub fn settings(keepalive: &Keepalive) -> String {
    let mut text = format!(
        "idle {}, interval {}, count {}",
        millis(keepalive.time_ms),
        millis(keepalive.interval_ms),
        keepalive.probes
    );
    if keepalive.user_timeout_ms != 0 {
        text += &format!(", user timeout {}", millis(keepalive.user_timeout_ms));
    }
    text
}

/// The values that [`rule`] prints.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleValues {
    pub probes: u32,
    pub user_timeout_ms: u64,
    /// `None` = unknown.
    pub retries2: Option<u32>,
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

/// A death certificate, in one clause; `heard` is when the last segment from the peer arrived.
pub fn certificate(closed: &Closed, keepalive: &Keepalive, heard: &str) -> String {
    let timeout = millis(keepalive.user_timeout_ms);
    let probes = plural(closed.probes_out.into(), "probe");
    let window_probes = plural(closed.probes_out.into(), "zero-window probe");
    let retransmissions = plural(closed.retransmits.into(), "retransmission");
    let heard = closed.idle_ms.map_or_else(
        || "no segment from the peer was received".to_owned(),
        |idle| {
            format!(
                "last segment from the peer at {heard}, {} ago",
                millis(idle)
            )
        },
    );
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
        Cause::PeerReset if closed.probes_out > 0 => {
            "reset by the peer in answer to a probe".to_owned()
        }
        Cause::PeerReset if closed.from_state == TcpState::SynSent => {
            "never connected: refused by the peer".to_owned()
        }
        Cause::PeerReset => "reset by the peer".to_owned(),
        Cause::PeerFin => "closed by the peer first".to_owned(),
        Cause::LocalClose => closed_by_owner(closed, keepalive),
        Cause::LocalAbort => "aborted by its owner".to_owned(),
        Cause::NetworkError => {
            format!(
                "ended by a network error: {}",
                closed
                    .error
                    .map_or_else(|| "unknown".to_owned(), |error| error.to_string())
            )
        }
        Cause::Unknown => "ended, the cause was not seen".to_owned(),
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
