//! Events about the trace itself: its start and its end.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

use super::{Losses, MissedCounts, Sysctl, When};

/// Version of the JSON form. The major number changes when a field changes meaning or goes away.
pub const SCHEMA_VERSION: &str = "1.3";

/// First line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    #[serde(flatten)]
    pub when: When,
    pub schema_version: String,
    /// Version of `keepalive`.
    pub version: String,
    /// `uname -n`; absent in recordings older than this field. Untrusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `uname -r`.
    pub kernel: String,
    pub backend: Backend,
    /// Better backends that were tried, and the reason each was refused.
    pub refused: Vec<Refused>,
    /// The kernel's tick, per second.
    pub hz: u32,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC at the start, nanoseconds: added to `monotonic_ns` it gives
    /// `timestamp`. `suspend` and `clock_step` events have the offset that holds from then on.
    pub clock_offset_ns: i64,
    /// The field that contains the keepalive timer on this kernel.
    pub keepalive_timer: String,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u64,
    /// Whether answers are reported when they arrive (`--live-answers`).
    pub live_answers: bool,
    /// The filters in force, by option name.
    pub filters: BTreeMap<String, String>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumIter, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
// In order of preference.
pub enum Backend {
    /// BPF trampolines on the kernel's functions.
    Fentry,
    /// Raw tracepoints, reading the socket at entry and exit of the timer.
    Tracepoint,
}

impl Backend {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The backends to try, in order of preference; only `wanted`, if it is given.
    pub fn candidates(wanted: Option<Self>) -> impl Iterator<Item = Self> {
        Self::iter().filter(move |backend| wanted.is_none_or(|wanted| wanted == *backend))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    pub backend: Backend,
    pub reason: String,
}

/// Last line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct End {
    #[serde(flatten)]
    pub when: When,
    pub duration_ms: u64,
    /// Sockets seen.
    pub sockets: u64,
    /// Events by kind.
    pub events: EventCounts,
    /// Timer runs by decision.
    pub decisions: BTreeMap<String, u64>,
    /// Ended sockets by cause.
    pub causes: BTreeMap<String, u64>,
    pub lost: Losses,
    pub missed: MissedCounts,
    /// In a replay: the recording is damaged or truncated, where, and what followed is unknown. Absent if
    /// it is whole, and in a live trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EventCounts {
    pub armed: u64,
    pub timer: u64,
    pub window_probe: u64,
    pub send_retry: u64,
    pub answer: u64,
    pub closed: u64,
    pub suspend: u64,
    pub clock_step: u64,
    pub sysctl: u64,
}

/// The host was suspended: CLOCK_MONOTONIC, the jiffies and all keepalive timers stood still.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Suspend {
    /// When the trace noticed it, after the host had resumed.
    #[serde(flatten)]
    pub when: When,
    /// How long CLOCK_MONOTONIC stood still (the growth of CLOCK_BOOTTIME − CLOCK_MONOTONIC), milliseconds.
    pub duration_ms: u64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC from now on, nanoseconds.
    pub clock_offset_ns: i64,
}

/// The wall clock was set, or a leap second was inserted.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ClockStep {
    /// When the trace noticed it, in the new time.
    #[serde(flatten)]
    pub when: When,
    /// By how much, microseconds; negative if it was set back.
    pub step_us: i64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC from now on, nanoseconds.
    pub clock_offset_ns: i64,
}

/// A sysctl of a network namespace was changed. How open connections are affected is in `docs/EVENTS.md`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SysctlChange {
    /// When the trace noticed it.
    #[serde(flatten)]
    pub when: When,
    /// When the old value was last seen, at the latest: it was changed between then and now.
    pub since: When,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// In `net.ipv4`.
    pub name: Sysctl,
    /// As /proc/sys shows it: durations in seconds.
    pub old: u64,
    pub new: u64,
    pub sockets: UnaffectedSockets,
}

/// Tracked sockets of the namespace whose sysctl was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct UnaffectedSockets {
    pub tracked: u64,
    /// Their keepalive timer is armed: its deadline stays.
    pub armed: u64,
    /// They have a value of their own that is used instead: TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, or
    /// TCP_USER_TIMEOUT. Of a socket older than the trace it is known from its first event on.
    pub own: u64,
}
