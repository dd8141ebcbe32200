//! Events about the trace itself: its beginning, its losses, its end.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::When;

/// Version of the JSON form. The major number changes when a field changes meaning or goes away.
pub const SCHEMA_VERSION: &str = "1.0";

/// First line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Start {
    #[serde(flatten)]
    pub when: When,
    pub schema_version: String,
    /// Version of `keepalive`.
    pub version: String,
    /// `uname -n`; not there in recordings older than this field. Untrusted.
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
    /// `timestamp`. It stays the same throughout, whatever is done to the wall clock meanwhile.
    pub clock_offset_ns: i64,
    /// Where this kernel keeps the keepalive timer.
    pub keepalive_timer: String,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u64,
    /// Whether answers are reported when they arrive (`--live-answers`).
    pub live_answers: bool,
    /// The filters in force, by option name.
    pub filters: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// BPF trampolines on the kernel's functions.
    Fentry,
    /// Raw tracepoints, reading the socket at entry and exit of the timer.
    Tracepoint,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    pub backend: Backend,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LostWhere {
    /// The ring buffer was full.
    Ring,
    /// A record that this version cannot decode.
    Decode,
    /// A table was full: the tracker's, whose least recently seen socket was dropped, or the
    /// programs' own of sockets reported with keepalive off, whose end will not be told.
    Tracker,
    /// A program could not take its per-CPU scratch buffer.
    Scratch,
    /// A program could not read kernel memory that must be there.
    Unreadable,
    /// More came than the recording may take (`--record-rate`); the trace itself has them.
    Recording,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Lost {
    #[serde(flatten)]
    pub when: When,
    pub count: u64,
    #[serde(rename = "where")]
    pub place: LostWhere,
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
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EventCounts {
    pub armed: u64,
    pub timer: u64,
    pub window_probe: u64,
    pub answer: u64,
    pub closed: u64,
}

/// Everything that was lost, by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Losses {
    /// Records the full ring buffer refused.
    pub ring: u64,
    /// Records that could not be decoded.
    pub decode: u64,
    /// Sockets forgotten because a table was full: the tracker's, or the programs' own of sockets
    /// reported with keepalive off.
    pub tracker: u64,
    /// Observations given up because the per-CPU scratch buffer was taken over.
    pub scratch: u64,
    /// Observations given up because kernel memory could not be read.
    pub unreadable: u64,
    /// Records the recording did not take.
    pub recording: u64,
    /// Events whose owner was looked for and not found.
    pub owner: u64,
}
