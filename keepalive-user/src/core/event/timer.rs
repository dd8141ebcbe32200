//! One run of the keepalive timer, and what the kernel decided in it.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumIter, IntoStaticStr};

use super::{BeforeAfter, Death, Errno};

/// One run of the keepalive timer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TimerRun {
    pub decision: Decision,
    /// How long the peer had been silent, milliseconds (`keepalive_time_elapsed`): the number the
    /// kernel compares with `time_ms` and `user_timeout_ms`. Null if nothing was ever received.
    pub idle_ms: Option<u64>,
    /// How late the timer ran after its deadline, milliseconds: the timer wheel rounds up.
    pub late_ms: Option<u64>,
    /// Segments sent and not acknowledged, before the run.
    pub packets_out: u32,
    /// Bytes written by the application and not sent yet, before the run.
    pub unsent_bytes: u32,
    /// `icsk_probes_out`: unanswered probes.
    pub probes_out: BeforeAfter,
    /// Number of the probe sent by this run, from 1; null if it sent none.
    pub attempt: Option<u32>,
    /// The maximum number of probes: `keepalive.probes`; null without a probe, or if the user timeout
    /// alone decides.
    pub attempts: Option<u32>,
    /// Result of the local send: false if the probe was counted but did not leave the host (no
    /// route, firewall); null if no probe was sent or the backend does not show it.
    pub sent: Option<bool>,
    /// Errno name of that failure (`EHOSTUNREACH`).
    pub send_error: Option<Errno>,
    /// Why it did not leave this host, or cannot have; null if nothing is known to prevent it.
    pub outage: Option<Outage>,
    /// Until the timer runs next, milliseconds; null if it stopped.
    pub next_ms: Option<u64>,
    pub death: Option<Death>,
}

/// Why a segment did not leave this host, or cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema, EnumIter, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outage {
    /// No route from the local to the peer address: the route or the local address was removed, or the
    /// device is down.
    NoRoute,
    /// The device of the route is down.
    DeviceDown,
    /// The device of the route has no carrier.
    NoCarrier,
    /// A firewall on this host refused it (EPERM, EACCES).
    Firewall,
    /// The queue of the device dropped it.
    Queue,
}

impl Outage {
    /// Whether the segment cannot have left this host. The state of a device is read a little later.
    pub fn is_certain(self) -> bool {
        match self {
            Self::NoRoute | Self::Firewall | Self::Queue => true,
            Self::DeviceDown | Self::NoCarrier => false,
        }
    }
}

/// Every way out of `tcp_keepalive_timer`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    JsonSchema,
    PartialOrd,
    Ord,
    EnumIter,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Decision {
    /// A probe was made and counted.
    ProbeSent,
    /// The probe was dropped locally (qdisc): not counted, retried after 500 ms.
    ProbeFailed,
    /// Segments are unacknowledged: retransmission decides, keepalive waits a full time.
    DataInFlight,
    /// Data waits to be sent (zero window, congestion): keepalive waits a full time.
    DataUnsent,
    /// The peer was heard less than `time_ms` ago: armed for the remainder.
    NotIdle,
    /// A process owned the socket: retried after HZ/20.
    SocketBusy,
    /// Keepalive is off, or the state is CLOSE, LISTEN or SYN_SENT: not armed again.
    Stopped,
    /// Not a keepalive run: the FIN_WAIT2 timer of an orphan, which shares the timer.
    FinWait2,
    /// The connection was ended.
    Killed,
}

impl TimerRun {
    /// Whether a probe was counted that did not leave this host.
    pub fn is_unsent(&self) -> bool {
        match self.decision {
            Decision::ProbeSent => {
                self.sent == Some(false) || self.outage.is_some_and(Outage::is_certain)
            }
            Decision::ProbeFailed => true,
            Decision::DataInFlight
            | Decision::DataUnsent
            | Decision::NotIdle
            | Decision::SocketBusy
            | Decision::Stopped
            | Decision::FinWait2
            | Decision::Killed => false,
        }
    }
}
