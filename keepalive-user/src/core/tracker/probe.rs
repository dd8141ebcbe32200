//! Outstanding probes, and when they were answered.
//!
//! `tcp_ack` (tcp_input.c) sets `icsk_probes_out` to 0 and `rcv_tstamp` to now for every acceptable
//! ACK; the next record of the socket contains them. `tcp_clock_cache` then still has the nanosecond at
//! which the socket last handled a packet: if no packet was sent or received since, that packet was the
//! answer.
//!
//! An answer is a segment without data. If several probes are outstanding, it does not show which of them
//! it answers: then its round-trip time is unknown (Karn's algorithm, RFC 6298 section 3).

use keepalive_ebpf::{Record, TcpSample};

use super::continuity::is_since;
use crate::core::{
    decisions::outage,
    event::{Outage, Precision, ProbeKind},
};

/// The probes that are not answered so far.
#[derive(Clone, Copy, Debug)]
pub struct Outstanding {
    kind: ProbeKind,
    /// Number of the last one.
    attempt: u32,
    /// When the last one was sent, CLOCK_MONOTONIC, nanoseconds.
    pub sent: u64,
    /// As `sent`, the first one.
    pub first_sent: u64,
    /// `sent` in jiffies, low 32 bits, or slightly earlier.
    sent_jiffies: u32,
    /// When the timer runs again, low 32 bits of jiffies: the next probe is sent then, seen or unseen.
    next: u32,
    /// Segments built until then, including this one, and segments received.
    segs_out: u32,
    segs_in: u32,
    data_segs_in: u32,
    /// Values that only other traffic changes: the next byte the peer must acknowledge, its window, and
    /// the TCP state.
    snd_una: u32,
    snd_wnd: u32,
    state: u8,
    /// Why the last one did not leave this host, if it did not.
    outage: Option<Outage>,
    /// How many earlier ones may have.
    earlier: u8,
    /// `icsk_rto`, jiffies.
    rto: u32,
}

/// What a later sample shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer was not heard.
    Outstanding,
    /// The peer was heard, but not by an answer to these probes.
    Heard,
    Answered(Answered),
}

/// How they were answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    pub probe: ProbeKind,
    /// Number of the last probe before the answer.
    pub attempt: u32,
    /// Earlier probes that it may answer as well.
    pub earlier: u32,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// Microseconds, and their precision; `None` if it is not known which probe was answered, or later
    /// traffic hides it.
    pub rtt: Option<(u64, Precision)>,
}

impl Outstanding {
    /// The probe that the timer run of `record` made. `previous` are the outstanding ones until then.
    ///
    /// `unresolved` is when the last probe was sent to which a late answer may still come, 0 = none: within two
    /// retransmission timeouts.
    pub fn new(
        record: &Record,
        kind: ProbeKind,
        attempt: u32,
        previous: Option<Self>,
        unresolved: u64,
        hz: u32,
    ) -> Self {
        // The socket reads the clock when it builds a segment, inside the run.
        let (entry, exit) = (record.before.time, record.after.time);
        let built = record.after.clock_cache;
        let sent = if (entry..=exit).contains(&built) {
            built
        } else {
            entry
        };
        let previous = previous.filter(|previous| previous.kind == kind && attempt > 1);
        let patience = 2 * u64::from(record.after.rto) * 1_000_000_000 / u64::from(hz.max(1));
        let is_awaited = unresolved != 0 && sent.saturating_sub(unresolved) < patience;
        Self {
            kind,
            attempt,
            sent,
            first_sent: previous.map_or(sent, |previous| previous.first_sent),
            sent_jiffies: record.before.jiffies as u32,
            next: record.after.expires as u32,
            segs_out: record.after.segs_out,
            segs_in: record.before.segs_in,
            data_segs_in: record.before.data_segs_in,
            snd_una: record.after.snd_una,
            snd_wnd: record.after.snd_wnd,
            state: record.after.state,
            outage: outage(record),
            earlier: previous.map_or(is_awaited.into(), |previous| {
                previous
                    .earlier
                    .saturating_add(previous.may_have_left().into())
            }),
            rto: record.after.rto,
        }
    }

    /// Why none of them left this host; `None` if one may have.
    pub fn outage(&self) -> Option<Outage> {
        self.outage.filter(|_| self.earlier == 0)
    }

    pub fn is_of_window(&self) -> bool {
        self.kind == ProbeKind::Window
    }

    /// What this later sample shows.
    pub fn outcome(&self, sample: &TcpSample, hz: u32) -> Outcome {
        // The count alone is not sufficient: it is a byte, and 256 unanswered probes wrap it.
        let is_heard = sample.probes_out == 0
            && sample.rcv_tstamp != 0
            && is_since(self.sent_jiffies, sample.rcv_tstamp);
        if !is_heard {
            return Outcome::Outstanding;
        }
        let has_left = self.may_have_left() || self.earlier > 0;
        if !has_left || self.received(sample) == Some((0, true)) || self.is_all_replied(sample) {
            return Outcome::Heard;
        }
        Outcome::Answered(self.answered(sample, hz))
    }

    /// Whether this side replied to every segment without data that it received: to a FIN, a retransmission of
    /// one, or a probe of the peer it does; to an answer it does not.
    fn is_all_replied(&self, sample: &TcpSample) -> bool {
        // Nothing else was sent.
        let is_quiet = sample.snd_nxt == self.snd_una && sample.snd_una == self.snd_una;
        let sent = sample.segs_out.wrapping_sub(self.segs_out);
        is_quiet
            && sent > 0
            && self
                .received(sample)
                .is_some_and(|(without_data, data)| !data && without_data <= sent)
    }

    fn may_have_left(&self) -> bool {
        !self.outage.is_some_and(Outage::is_certain)
    }

    /// Segments without data received since, and whether any with data were, retransmissions included; `None`
    /// if that was not recorded.
    fn received(&self, sample: &TcpSample) -> Option<(u32, bool)> {
        let with_data = sample.data_segs_in.wrapping_sub(self.data_segs_in);
        let all = sample.segs_in.wrapping_sub(self.segs_in);
        (sample.segs_in != 0).then_some((all.saturating_sub(with_data), with_data > 0))
    }

    /// The answer, from a sample that shows one.
    ///
    /// `rcv_tstamp` is of the *last* ACK. If data, an acknowledgement or a FIN was received since, it may
    /// be of that segment, and the time of the answer is unknown; likewise if the timer must have run since.
    /// A changed window may come from a window update or from the answer itself: within the retransmission
    /// timeout, in which the kernel itself expects an answer, it is attributed to the answer.
    fn answered(&self, sample: &TcpSample, hz: u32) -> Answered {
        let jiffy = 1_000_000_000 / u64::from(hz.max(1));
        let age = u64::from((sample.jiffies as u32).wrapping_sub(sample.rcv_tstamp));
        let time = sample
            .time
            .saturating_sub(age.saturating_mul(jiffy))
            .max(self.sent);
        let data = (sample.lrcvtime != 0 && is_since(self.sent_jiffies, sample.lrcvtime))
            || self.received(sample).is_some_and(|(_, data)| data);
        let late = time.saturating_sub(self.sent) > u64::from(self.rto).saturating_mul(jiffy);
        let is_hidden = self.earlier > 0
            || !self.may_have_left()
            || data
            || sample.snd_una != self.snd_una
            || (sample.snd_wnd != self.snd_wnd && late)
            || sample.state != self.state
            || is_since(self.next, sample.rcv_tstamp);
        if is_hidden {
            return self.answered_at(time, None);
        }
        // No segment was sent since either: `clock_cache` is still the time of the answer.
        let clock_age = sample.time.saturating_sub(sample.clock_cache) / jiffy;
        let exact = sample.segs_out == self.segs_out
            && clock_age.abs_diff(age) <= 1
            && sample.clock_cache >= self.sent;
        if exact {
            self.answered_at(sample.clock_cache, Some(Precision::Exact))
        } else {
            self.answered_at(time, Some(Precision::Jiffy))
        }
    }

    fn answered_at(&self, time: u64, precision: Option<Precision>) -> Answered {
        Answered {
            probe: self.kind,
            attempt: self.attempt,
            earlier: self.earlier.into(),
            time,
            rtt: precision.map(|precision| (time.saturating_sub(self.sent) / 1000, precision)),
        }
    }
}

#[cfg(test)]
mod tests {
    use keepalive_ebpf::{Kind, RecordFlags, Route, RouteFlags};

    use super::*;

    const HZ: u32 = 250;
    const MS: u64 = 1_000_000;

    /// A probe sent at 1 s, the timer due again at 2 s.
    fn probe() -> Record {
        let mut record = Record::new(Kind::KeepaliveTimer);
        record.route = Route {
            device: 2,
            flags: RouteFlags::all(),
            ..Route::default()
        };
        for sample in [&mut record.before, &mut record.after] {
            (sample.time, sample.jiffies) = (1000 * MS, u64::from(HZ));
            (sample.clock_cache, sample.segs_in, sample.data_segs_in) = (1000 * MS, 5, 2);
        }
        record.after.expires = u64::from(2 * HZ);
        record
    }

    /// Read at 1.4 s, after an answer at 1.04 s.
    fn answered() -> TcpSample {
        TcpSample {
            time: 1400 * MS,
            jiffies: u64::from(HZ * 14 / 10),
            rcv_tstamp: HZ * 104 / 100,
            clock_cache: 1040 * MS,
            segs_in: 6,
            ..probe().after
        }
    }

    fn outcome(record: &Record, previous: Option<Outstanding>, sample: &TcpSample) -> Outcome {
        let attempt = 1 + u32::from(previous.is_some());
        Outstanding::new(record, ProbeKind::Keepalive, attempt, previous, 0, HZ).outcome(sample, HZ)
    }

    fn rtt(outcome: Outcome) -> Option<(u64, Precision)> {
        let Outcome::Answered(answered) = outcome else {
            panic!("{outcome:?}");
        };
        answered.rtt
    }

    #[test]
    fn one_probe_and_its_answer() {
        let exact = Some((40_000, Precision::Exact));
        assert_eq!(rtt(outcome(&probe(), None, &answered())), exact);
        let silent = TcpSample {
            rcv_tstamp: 0,
            ..answered()
        };
        assert_eq!(outcome(&probe(), None, &silent), Outcome::Outstanding);
    }

    /// Karn: the answer may be to the first or to the second probe.
    #[test]
    fn an_answer_to_one_of_two_probes_is_ambiguous() {
        let first = Outstanding::new(&probe(), ProbeKind::Keepalive, 1, None, 0, HZ);
        let second = outcome(&probe(), Some(first), &answered());
        assert_eq!(rtt(second), None);
        // The first did not leave this host.
        let mut lost = probe();
        lost.route.flags = RouteFlags::READ;
        let first = Outstanding::new(&lost, ProbeKind::Keepalive, 1, None, 0, HZ);
        assert!(rtt(outcome(&probe(), Some(first), &answered())).is_some());
    }

    #[test]
    fn a_probe_that_did_not_leave_has_no_answer() {
        let mut refused = probe();
        refused.flags = RecordFlags::WAKEUP_SEEN | RecordFlags::WAKEUP_WATCHED;
        refused.wakeup_result = -1;
        assert_eq!(outcome(&refused, None, &answered()), Outcome::Heard);
    }

    /// The only segment since carried data that was received before: the peer is alive, and did not answer.
    #[test]
    fn a_retransmission_of_the_peer_is_not_an_answer() {
        let data = TcpSample {
            data_segs_in: 3,
            ..answered()
        };
        assert_eq!(outcome(&probe(), None, &data), Outcome::Heard);
        let both = TcpSample { segs_in: 7, ..data };
        assert_eq!(rtt(outcome(&probe(), None, &both)), None);
    }

    /// The timer must have sent another probe, which no record shows.
    #[test]
    fn an_answer_after_the_next_deadline_has_no_time() {
        let late = TcpSample {
            time: 2400 * MS,
            jiffies: u64::from(HZ * 24 / 10),
            rcv_tstamp: HZ * 204 / 100,
            clock_cache: 2040 * MS,
            ..answered()
        };
        assert_eq!(rtt(outcome(&probe(), None, &late)), None);
    }

    /// A round trip of 1.6 s, probed every second: the answer to an earlier probe arrives right after this one.
    #[test]
    fn a_late_answer_to_an_earlier_probe_is_ambiguous() {
        let mut record = probe();
        record.after.rto = 2 * HZ;
        let soon = Outstanding::new(&record, ProbeKind::Keepalive, 1, None, 10 * MS, HZ);
        assert_eq!(rtt(soon.outcome(&answered(), HZ)), None);
        record.after.rto = HZ / 5;
        let later = Outstanding::new(&record, ProbeKind::Keepalive, 1, None, 10 * MS, HZ);
        assert!(rtt(later.outcome(&answered(), HZ)).is_some());
    }

    /// This side acknowledged the only segment that arrived: a FIN, or a retransmission of one.
    #[test]
    fn a_fin_of_the_peer_is_not_an_answer() {
        let fin = TcpSample {
            segs_out: 1,
            ..answered()
        };
        assert_eq!(outcome(&probe(), None, &fin), Outcome::Heard);
        let both = TcpSample { segs_in: 7, ..fin };
        assert!(matches!(
            outcome(&probe(), None, &both),
            Outcome::Answered(_)
        ));
    }
}
