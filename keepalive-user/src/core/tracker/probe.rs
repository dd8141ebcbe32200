//! An outstanding probe, and when it was answered.
//!
//! `tcp_ack` (tcp_input.c) sets `icsk_probes_out` to 0 and `rcv_tstamp` to now for every acceptable
//! ACK; the next record of the socket contains them. `tcp_clock_cache` then still has the nanosecond at
//! which the socket last handled a packet: if no packet was sent or received since, that packet was the
//! answer.

use keepalive_ebpf::{Record, TcpSample};

use super::continuity::is_since;
use crate::core::event::{Precision, ProbeKind};

/// A probe that is not answered so far.
#[derive(Clone, Copy, Debug)]
pub struct Outstanding {
    kind: ProbeKind,
    attempt: u32,
    /// When it was sent, CLOCK_MONOTONIC, nanoseconds.
    sent: u64,
    /// The same in jiffies, low 32 bits, or slightly earlier.
    sent_jiffies: u32,
    /// Segments built until then, including this one.
    segs_out: u32,
    /// Values that only other traffic changes: the next byte the peer must acknowledge, its window, and
    /// the TCP state.
    snd_una: u32,
    snd_wnd: u32,
    state: u8,
    /// `icsk_rto`, jiffies.
    rto: u32,
}

/// How it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub probe: ProbeKind,
    pub attempt: u32,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// Microseconds, and their precision; `None` if later traffic hides it.
    pub rtt: Option<(u64, Precision)>,
}

impl Outstanding {
    /// The probe that the timer run of `record` made.
    pub fn new(record: &Record, kind: ProbeKind, attempt: u32) -> Self {
        // The socket reads the clock when it builds a segment, inside the run.
        let (entry, exit) = (record.before.time, record.after.time);
        let built = record.after.clock_cache;
        Self {
            kind,
            attempt,
            sent: if (entry..=exit).contains(&built) {
                built
            } else {
                entry
            },
            sent_jiffies: record.before.jiffies as u32,
            segs_out: record.after.segs_out,
            snd_una: record.after.snd_una,
            snd_wnd: record.after.snd_wnd,
            state: record.after.state,
            rto: record.after.rto,
        }
    }

    /// Whether this later sample shows an answer. The count alone is not sufficient: it is a byte,
    /// and 256 unanswered probes wrap it.
    pub fn is_answered(&self, sample: &TcpSample) -> bool {
        sample.probes_out == 0
            && sample.rcv_tstamp != 0
            && is_since(self.sent_jiffies, sample.rcv_tstamp)
    }

    /// The answer, from a sample that shows one.
    ///
    /// `rcv_tstamp` is of the *last* ACK. If data, an acknowledgement or a FIN was received since, it may
    /// be of that segment, and the time of the answer is unknown. A changed window may come from a window
    /// update or from the answer itself: within the retransmission timeout, in which the kernel itself
    /// expects an answer, it is attributed to the answer.
    pub fn answered(&self, sample: &TcpSample, hz: u32) -> Answered {
        let jiffy = 1_000_000_000 / u64::from(hz.max(1));
        let age = u64::from((sample.jiffies as u32).wrapping_sub(sample.rcv_tstamp));
        let time = sample
            .time
            .saturating_sub(age.saturating_mul(jiffy))
            .max(self.sent);
        let data = sample.lrcvtime != 0 && is_since(self.sent_jiffies, sample.lrcvtime);
        let late = time.saturating_sub(self.sent) > u64::from(self.rto).saturating_mul(jiffy);
        let traffic = data
            || sample.snd_una != self.snd_una
            || (sample.snd_wnd != self.snd_wnd && late)
            || sample.state != self.state;
        if traffic {
            return Answered {
                rtt: None,
                ..self.answered_at(time)
            };
        }
        // No segment was sent since either: `clock_cache` is still the time of the answer.
        let clock_age = sample.time.saturating_sub(sample.clock_cache) / jiffy;
        let exact = sample.segs_out == self.segs_out
            && clock_age.abs_diff(age) <= 1
            && sample.clock_cache >= self.sent;
        if exact {
            return self.answered_at(sample.clock_cache);
        }
        let answered = self.answered_at(time);
        Answered {
            rtt: answered.rtt.map(|(rtt, _)| (rtt, Precision::Jiffy)),
            ..answered
        }
    }

    /// The answer, at a known time.
    pub fn answered_at(&self, time: u64) -> Answered {
        Answered {
            probe: self.kind,
            attempt: self.attempt,
            time,
            rtt: Some((time.saturating_sub(self.sent) / 1000, Precision::Exact)),
        }
    }
}
