//! Detects whether the kernel acted between two observations of a socket: it may do so without running
//! our programs, and then it counts no miss.
//!
//! Three things show it. `icsk_probes_out` is raised by every probe and reset by an answer, so a jump
//! is a probe. The timer keeps the deadline that its last run armed, so another deadline is a run. If
//! a deadline has passed without either, user space reads the socket.

use keepalive_ebpf::{Kind, Record, RecordFlags, TcpSample};

use crate::core::{
    arithmetic::Effective,
    event::{MissedCounts, MissedWhere},
    kernel::{pending, state},
    sample::{silence, unsent},
};

/// The values that the next observation of a socket is compared with. Jiffies are their low 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Continuity {
    /// The time of the observation.
    jiffies: u32,
    /// Last data or ACK received from the peer at that time.
    heard: u32,
    /// Deadline of the keepalive timer, if there is one.
    expires: u32,
    /// `tp->segs_out`.
    segs_out: u32,
    /// A hash that changes with data in either direction.
    traffic: u32,
    probes_out: u8,
    deadline: Deadline,
}

/// The deadline of the keepalive timer, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// The timer is not armed, or its deadline is unknown.
    None,
    /// Read after the timer was armed.
    Exact,
    /// Computed: the programs observed the socket just before the timer was armed.
    About,
}

/// The sample at the beginning of what a record observed.
pub fn beginning(record: &Record) -> &TcpSample {
    match record.kind {
        Kind::KeepaliveTimer | Kind::WindowProbe | Kind::Ack => &record.before,
        Kind::Setsockopt
        | Kind::Established
        | Kind::Close
        | Kind::Closing
        | Kind::Owner
        | Kind::Polled
        | Kind::Listed => &record.after,
    }
}

impl Continuity {
    /// The values to compare the next observation with, after this record.
    pub fn after(record: &Record, previous: Option<Self>, hz: u32) -> Self {
        let now = Self::of(&record.after);
        let (expires, deadline) = match record.kind {
            // Its sample is about the write timer.
            Kind::WindowProbe => previous.map_or((0, Deadline::None), |previous| {
                (previous.expires, previous.deadline)
            }),
            Kind::Setsockopt if record.flags.contains(RecordFlags::SWITCHING_OFF) => {
                (0, Deadline::None)
            }
            // Observed before `tcp_set_keepalive`, `tcp_finish_connect` or `tcp_create_openreq_child` arms
            // the timer for the full time.
            Kind::Setsockopt | Kind::Established if is_armed_next(record) => {
                let time = Effective::of(record, hz).time;
                (now.jiffies.wrapping_add(time), Deadline::About)
            }
            Kind::Setsockopt
            | Kind::Established
            | Kind::KeepaliveTimer
            | Kind::Close
            | Kind::Ack
            | Kind::Closing
            | Kind::Owner
            | Kind::Polled
            | Kind::Listed => (now.expires, now.deadline),
        };
        Self {
            expires,
            deadline,
            ..now
        }
    }

    /// From a sample that is about the keepalive timer.
    pub fn of(sample: &TcpSample) -> Self {
        let jiffies = sample.jiffies as u32;
        Self {
            jiffies,
            heard: silence(sample).map_or(0, |silence| jiffies.wrapping_sub(silence)),
            expires: sample.expires as u32,
            segs_out: sample.segs_out,
            traffic: traffic(sample),
            probes_out: sample.probes_out,
            deadline: if sample.timer_pending {
                Deadline::Exact
            } else {
                Deadline::None
            },
        }
    }

    /// Whether the keepalive timer is known to be armed.
    pub fn is_armed(&self) -> bool {
        self.deadline != Deadline::None
    }

    /// What happened between that observation and this record, beyond what this record reports.
    pub fn missed(&self, record: &Record, hz: u32) -> MissedCounts {
        let now = beginning(record);
        let probes = self.jump(now);
        if probes > 0 {
            return missed_probes(probes, now);
        }
        if !self.is_rearmed(record, now, hz) {
            return MissedCounts::default();
        }
        // An idle socket was probed, and the answer reset the count.
        let idle = self.expires.wrapping_sub(self.heard) >= Effective::of(record, hz).time;
        let quiet = self.heard != 0 && traffic(now) == self.traffic && unsent(now) == 0;
        if idle && quiet && now.segs_out != self.segs_out {
            return missed_probes(1, now);
        }
        MissedCounts::of(MissedWhere::Timer, 1)
    }

    /// Probes that raised `icsk_probes_out`. An acceptable ACK resets it, and stores its time.
    fn jump(&self, now: &TcpSample) -> u64 {
        let answered = now.rcv_tstamp != 0 && is_since(self.jiffies, now.rcv_tstamp);
        let base = if answered || now.probes_out < self.probes_out {
            0
        } else {
            self.probes_out
        };
        (now.probes_out - base).into()
    }

    /// Whether the keepalive timer ran since: its deadline differs from the one that was armed.
    fn is_rearmed(&self, record: &Record, now: &TcpSample, hz: u32) -> bool {
        let comparable = match record.kind {
            Kind::KeepaliveTimer | Kind::Ack | Kind::Close | Kind::Closing | Kind::Polled => true,
            // These arm it themselves, or are about another timer.
            Kind::WindowProbe
            | Kind::Setsockopt
            | Kind::Established
            | Kind::Owner
            | Kind::Listed => false,
        };
        // An orphan's timer is for FIN_WAIT2: `__tcp_close` and `tcp_rcv_state_process` arm it.
        if !comparable || now.orphan {
            return false;
        }
        let moved = (now.expires as u32).wrapping_sub(self.expires);
        match self.deadline {
            Deadline::None => false,
            Deadline::Exact => moved != 0,
            // Armed slightly later than observed; a run moves it by an interval, a second at least.
            Deadline::About => moved > hz / 2 && moved < 1 << 31,
        }
    }

    /// Whether the deadline passed more than `grace` jiffies ago without a record, not counting the timer
    /// wheel's rounding (at most an eighth of the time). If a read of the socket showed no change, the
    /// socket is overdue again after the same time has passed again.
    pub fn is_overdue(&self, now: u32, grace: u32) -> bool {
        if self.deadline == Deadline::None {
            return false;
        }
        let late = now.wrapping_sub(self.expires).cast_signed();
        let seen = self.jiffies.wrapping_sub(self.expires).cast_signed();
        let rounding = self.expires.wrapping_sub(self.jiffies).cast_signed().max(0) / 8;
        let wait = i64::from(grace) + i64::from(rounding) + 2 * i64::from(seen.max(0));
        i64::from(late) > wait
    }

    /// Whether the deadline has passed.
    pub fn is_due(&self, now: u32) -> bool {
        self.deadline != Deadline::None && now.wrapping_sub(self.expires).cast_signed() > 0
    }
}

/// Probes, of the kind that the socket sends now: `tcp_keepalive_timer` sends none while data waits.
pub fn missed_probes(count: u64, now: &TcpSample) -> MissedCounts {
    let is_window = unsent(now) > 0 || now.pending == pending::PROBE0;
    let place = if is_window {
        MissedWhere::WindowProbe
    } else {
        MissedWhere::Probe
    };
    MissedCounts::of(place, count)
}

/// Whether the keepalive timer of a socket that was read on request may be running at that moment: its
/// own record may still be in flight, so its run is not unseen. The timer is out of the wheel until its
/// run arms it again, from then on for an interval or the full time.
pub fn may_be_running(record: &Record, hz: u32) -> bool {
    const UNDER_WAY: u64 = 2;
    let now = &record.after;
    let effective = Effective::of(record, hz);
    let just_armed = [effective.interval, effective.time]
        .iter()
        .any(|&time| now.expires.abs_diff(now.jiffies + u64::from(time)) <= UNDER_WAY);
    now.state != state::CLOSE && (!now.timer_pending || just_armed)
}

/// Whether the kernel arms the timer for the full time right after the observation of this record.
fn is_armed_next(record: &Record) -> bool {
    let pending = record.after.timer_pending;
    match record.kind {
        // Whatever was armed while it connected is re-armed (`tcp_finish_connect`).
        Kind::Established => record.from_state == state::SYN_SENT || !pending,
        Kind::Setsockopt => record.flags.contains(RecordFlags::SWITCHING_ON) && !pending,
        Kind::KeepaliveTimer
        | Kind::WindowProbe
        | Kind::Close
        | Kind::Ack
        | Kind::Closing
        | Kind::Owner
        | Kind::Polled
        | Kind::Listed => false,
    }
}

fn traffic(sample: &TcpSample) -> u32 {
    sample.snd_una ^ sample.write_seq.rotate_left(11) ^ sample.lrcvtime.rotate_left(22)
}

/// Whether `stamp` is at or after `start`, both low 32 bits of jiffies.
pub fn is_since(start: u32, stamp: u32) -> bool {
    stamp.wrapping_sub(start) < 1 << 31
}

#[cfg(test)]
mod tests;
