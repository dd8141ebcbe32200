//! # Words
//!
//! What the text outputs share: times of day, owners and settings here, causes of death in `cause`, what
//! was not seen in `losses`. Plain numbers and durations are in `core::format`.

mod cause;
mod losses;

use std::sync::Arc;

use jiff::{Timestamp, tz::TimeZone};

pub use self::{
    cause::{RuleValues, certificate, headline, rule, unless, unless_briefly, verdict},
    losses::{losses_text, lost_words, missed_words, unknown},
};
use crate::core::{
    event::{Keepalive, Outage, Process},
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

/// Why a segment did not leave this host, in a few words.
pub fn outage_words(outage: Outage) -> &'static str {
    match outage {
        Outage::NoRoute => "no route (route or local address removed, or link down)",
        Outage::DeviceDown => "the link is down",
        Outage::NoCarrier => "the link has no carrier",
        Outage::Firewall => "refused by a firewall on this host",
        Outage::Queue => "dropped by the queue of the device",
    }
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
