//! Numbers, addresses and causes in plain words, shared by the outputs for people.

use std::{fmt, net::IpAddr, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};

use super::escape;
use crate::event::{Cause, Closed, Endpoint, Keepalive, Process, TcpState};

/// `350 µs`, `41.3 ms`, `75.0 s`, `2 h 11 min`.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => tenths(us / 100, "ms"),
        _ => millis(us / 1000),
    }
}

pub fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..600_000 => tenths(ms / 100, "s"),
        600_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => {
            let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
            if minutes == 0 {
                format!("{hours} h")
            } else {
                format!("{hours} h {minutes} min")
            }
        }
    }
}

/// Tenths of a unit, without `.0`.
fn tenths(tenths: u64, unit: &str) -> String {
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

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

/// `10.0.0.1:22`, `[::1]:22`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:{}", self.port),
            IpAddr::V6(address) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

/// `sshd/1036`, `?` if unknown.
pub fn owner(process: Option<&Arc<Process>>) -> String {
    process.map_or_else(
        || "?".to_owned(),
        |process| format!("{}/{}", escape(&process.comm), process.pid),
    )
}

pub fn bytes(count: u32) -> String {
    if count == 1 {
        "1 byte".to_owned()
    } else {
        format!("{count} bytes")
    }
}

pub fn plural(count: u64, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// The settings, as one would set them.
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

/// What a death certificate says, in one clause.
pub fn certificate(closed: &Closed, keepalive: &Keepalive, heard: &str) -> String {
    let silence = closed.idle_ms.map_or_else(
        || "ever".to_owned(),
        |idle| format!("{} (last heard {heard})", millis(idle)),
    );
    let timeout = millis(keepalive.user_timeout_ms);
    let probes = plural(closed.probes_out.into(), "probe");
    match closed.cause {
        Cause::KeepaliveProbes => {
            format!("killed by keepalive: no answer to {probes}, peer silent for {silence}")
        }
        Cause::KeepaliveUserTimeout => format!(
            "killed by TCP_USER_TIMEOUT {timeout} after {} of {} probes, peer silent for {silence}",
            closed.probes_out, keepalive.probes
        ),
        Cause::RetransmitTimeout => format!(
            "killed by retransmission: {} of unacknowledged data, peer silent for {silence}",
            plural(closed.retransmits.into(), "retransmission")
        ),
        Cause::RetransmitUserTimeout => format!(
            "killed by TCP_USER_TIMEOUT {timeout} after {} of unacknowledged data, peer silent for {silence}",
            plural(closed.retransmits.into(), "retransmission")
        ),
        Cause::ConnectTimeout => format!(
            "never connected: no answer to the SYN and {}",
            plural(closed.retransmits.into(), "retransmission")
        ),
        Cause::WindowProbeTimeout => {
            format!("killed in a zero window: no answer to {probes}, peer silent for {silence}")
        }
        Cause::WindowProbeUserTimeout => format!(
            "killed by TCP_USER_TIMEOUT {timeout} in a zero window, peer silent for {silence}"
        ),
        Cause::PeerReset if closed.probes_out > 0 => {
            "reset by the peer in answer to a probe".to_owned()
        }
        Cause::PeerReset if closed.from_state == TcpState::SynSent => {
            "never connected: refused by the peer".to_owned()
        }
        Cause::PeerReset => "reset by the peer".to_owned(),
        Cause::PeerFin => "closed, by the peer first".to_owned(),
        Cause::LocalClose if closed.probes_out > 0 => {
            format!("closed, by this side first, {probes} unanswered")
        }
        // From beginning to end under our eyes, and not one probe.
        Cause::LocalClose
            if keepalive.enabled
                && closed.lifetime_ms.is_some()
                && closed.totals.keepalive_probes == 0 =>
        {
            format!(
                "closed, by this side first, before a probe was due (after {} of silence)",
                millis(keepalive.time_ms)
            )
        }
        Cause::LocalClose if closed.totals.keepalive_probes > 0 => format!(
            "closed, by this side first and of its own will: the peer answered {} of {}",
            closed.totals.keepalive_answers,
            plural(closed.totals.keepalive_probes, "probe")
        ),
        Cause::LocalClose => "closed, by this side first".to_owned(),
        Cause::LocalAbort => "aborted by this side".to_owned(),
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

/// The name of a cause or a decision, as in JSON.
pub fn name(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}
