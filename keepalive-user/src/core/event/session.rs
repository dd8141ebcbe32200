//! Events about the trace itself: its start and its end.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

use super::{Losses, MissedCounts, When};

/// Version of the JSON form. The major number changes when a field changes meaning or goes away.
pub const SCHEMA_VERSION: &str = "1.2";

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
    /// `timestamp`. It is constant during the trace, even if the wall clock is set.
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
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EventCounts {
    pub armed: u64,
    pub timer: u64,
    pub window_probe: u64,
    pub send_retry: u64,
    pub answer: u64,
    pub closed: u64,
}
