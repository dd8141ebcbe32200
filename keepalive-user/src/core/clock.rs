//! # Time
//!
//! The kernel stamps events with CLOCK_MONOTONIC; people read wall clocks. The offset between the two
//! changes only in steps, because NTP slews both clocks alike: when the wall clock is set
//! (`do_settimeofday64`, `timekeeping_inject_offset`, a leap second), and when the host was suspended, during
//! which CLOCK_MONOTONIC and the jiffies stand still and CLOCK_REALTIME and CLOCK_BOOTTIME do not
//! (`__timekeeping_inject_sleeptime`). The offset is measured at the start and again while a session
//! runs; times before a step keep the offset that they had.

use jiff::Timestamp;

use super::event::When;

/// Offsets that are remembered: an answer is reported later, and steps may come between.
pub const REMEMBERED: usize = 4;
/// Smaller changes than this are not distinguished from the uncertainty of a reading, nanoseconds.
const LEAST: u64 = 1_000_000;

/// The offset between the two clocks of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CLOCK_REALTIME − CLOCK_MONOTONIC, nanoseconds.
    pub offset_ns: i64,
}

impl Clock {
    /// Converts a CLOCK_MONOTONIC time.
    pub fn at(&self, monotonic_ns: u64) -> When {
        let nanoseconds = i64::try_from(monotonic_ns)
            .ok()
            .and_then(|monotonic| monotonic.checked_add(self.offset_ns))
            .unwrap_or(i64::MAX);
        let (second, rest) = (
            nanoseconds.div_euclid(1_000_000_000),
            nanoseconds.rem_euclid(1_000_000_000),
        );
        let timestamp = Timestamp::new(second, rest as i32).unwrap_or(Timestamp::MAX);
        When {
            timestamp,
            monotonic_ns,
        }
    }
}

/// An offset, and since when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub since: u64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC, nanoseconds.
    pub offset_ns: i64,
}

/// The offsets of a trace, in which the wall clock may be set and the host suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// The latest first. The last one holds for all earlier times, too.
    offsets: [Offset; REMEMBERED],
}

impl WallClock {
    pub fn new(Clock { offset_ns }: Clock) -> Self {
        let since = 0;
        Self {
            offsets: [Offset { since, offset_ns }; REMEMBERED],
        }
    }

    /// Converts a CLOCK_MONOTONIC time with the offset that held then; a later time with the present one.
    pub fn at(&self, monotonic_ns: u64) -> When {
        let [.., oldest] = &self.offsets;
        let held = |offset: &&Offset| offset.since <= monotonic_ns;
        let Offset { offset_ns, .. } = *self.offsets.iter().find(held).unwrap_or(oldest);
        Clock { offset_ns }.at(monotonic_ns)
    }

    /// The present offset.
    pub fn present(&self) -> Offset {
        let [present, ..] = self.offsets;
        present
    }

    /// The offsets after the first one that is remembered, oldest first.
    pub fn steps(&self) -> impl Iterator<Item = Offset> {
        self.offsets.into_iter().rev().filter(|it| it.since > 0)
    }

    /// Adds an offset, unless it is known: the later files of a recording repeat it.
    pub fn change(&mut self, offset: Offset) {
        if self.offsets.contains(&offset) {
            return;
        }
        self.offsets.rotate_right(1);
        let [present, ..] = &mut self.offsets;
        *present = offset;
    }
}

/// The clocks of a machine, read at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at: u64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC, nanoseconds.
    pub realtime_ns: i64,
    /// CLOCK_BOOTTIME − CLOCK_MONOTONIC, nanoseconds: how long the host was suspended since it booted.
    pub boottime_ns: i64,
    /// How far the differences may be off, nanoseconds.
    pub uncertainty_ns: u64,
}

/// What happened to the clocks between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockChange {
    /// When it was noticed, CLOCK_MONOTONIC, nanoseconds.
    pub noticed: u64,
    /// The new offset, from the last reading with the old one on.
    pub offset: Offset,
    /// How long the host was suspended, nanoseconds; 0 = it was not.
    pub suspended_ns: u64,
    /// By how much the wall clock was set, nanoseconds; 0 = it was not.
    pub step_ns: i64,
}

/// Compares readings of the clocks.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    /// The reading whose offsets hold.
    valid: Reading,
    /// The last reading that agreed with it, CLOCK_MONOTONIC.
    agreed: u64,
}

impl ClockWatch {
    /// Starts from this reading.
    pub fn new(valid: Reading) -> Self {
        Self {
            valid,
            agreed: valid.at,
        }
    }

    /// Whether a reading agrees with the last valid one.
    pub fn agrees(&mut self, now: &Reading) -> bool {
        let is_same = self.compare(now) == (0, 0);
        if is_same {
            self.agreed = now.at;
        }
        is_same
    }

    /// Takes a reading; `None` if nothing changed.
    pub fn observe(&mut self, now: Reading) -> Option<ClockChange> {
        if self.agrees(&now) {
            return None;
        }
        let (suspended_ns, step_ns) = self.compare(&now);
        let since = self.agreed.saturating_add(1);
        *self = Self::new(now);
        Some(ClockChange {
            noticed: now.at,
            offset: Offset {
                since,
                offset_ns: now.realtime_ns,
            },
            suspended_ns,
            step_ns,
        })
    }

    /// How long the host was suspended, and by how much the wall clock was set in addition.
    fn compare(&self, now: &Reading) -> (u64, i64) {
        let least = LEAST.max(self.valid.uncertainty_ns.saturating_add(now.uncertainty_ns));
        let passed = now.boottime_ns.saturating_sub(self.valid.boottime_ns);
        let suspended = u64::try_from(passed).unwrap_or(0);
        let suspended = if suspended >= least { suspended } else { 0 };
        let set = now.realtime_ns.saturating_sub(self.valid.realtime_ns);
        let step = set.saturating_sub(suspended.cast_signed());
        (
            suspended,
            if step.unsigned_abs() >= least {
                step
            } else {
                0
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn reading(at: u64, realtime_ns: i64, boottime_ns: i64) -> Reading {
        Reading {
            at,
            realtime_ns,
            boottime_ns,
            uncertainty_ns: 200,
        }
    }

    #[test]
    fn suspend_and_steps_are_distinguished() {
        let mut watch = ClockWatch::new(reading(100, 50 * SECOND, 0));
        assert_eq!(
            watch.observe(reading(200, 50 * SECOND + 900_000, 900)),
            None
        );
        // The host sleeps for an hour, and the wall clock is set back by 2 s when it wakes.
        let slept = 3600 * SECOND;
        let now = reading(300, 50 * SECOND + slept - 2 * SECOND, slept);
        let change = watch.observe(now).unwrap();
        assert_eq!(change.suspended_ns, 3600 * 1_000_000_000);
        assert_eq!(change.step_ns, -2 * SECOND);
        assert_eq!((change.noticed, change.offset.since), (300, 201));
        assert_eq!(change.offset.offset_ns, now.realtime_ns);
        assert_eq!(watch.observe(now), None);
        // It only sleeps.
        let now = reading(400, now.realtime_ns + SECOND, slept + SECOND);
        let change = watch.observe(now).unwrap();
        assert_eq!((change.suspended_ns, change.step_ns), (1_000_000_000, 0));
        // It is only set.
        let now = reading(500, now.realtime_ns + 5 * SECOND, now.boottime_ns);
        let change = watch.observe(now).unwrap();
        assert_eq!((change.suspended_ns, change.step_ns), (0, 5 * SECOND));
    }

    #[test]
    fn small_steps_add_up_and_uncertain_readings_are_no_step() {
        let mut watch = ClockWatch::new(reading(0, 0, 0));
        let unsure = Reading {
            uncertainty_ns: 5_000_000,
            ..reading(1, 4_000_000, 0)
        };
        assert_eq!(watch.observe(unsure), None);
        assert_eq!(watch.observe(reading(2, 600_000, 0)), None);
        let change = watch.observe(reading(3, 1_200_000, 0)).unwrap();
        assert_eq!((change.step_ns, change.offset.since), (1_200_000, 3));
    }

    #[test]
    fn each_time_keeps_its_offset() {
        let at = |clock: &WallClock, time| clock.at(time).timestamp.as_nanosecond();
        let mut clock = WallClock::new(Clock { offset_ns: 10 });
        let changes = [(100, 1010), (200, 2010), (300, 3010)];
        for (since, offset_ns) in changes {
            clock.change(Offset { since, offset_ns });
            clock.change(Offset { since, offset_ns });
        }
        let times = [99, 100, 199, 200, 300, 9999].map(|time| at(&clock, time));
        assert_eq!(times, [109, 1110, 1209, 2210, 3310, 13_009]);
        // The first one is forgotten.
        let (since, offset_ns) = (400, 4010);
        clock.change(Offset { since, offset_ns });
        clock.change(Offset {
            since: 500,
            offset_ns: 0,
        });
        assert_eq!(at(&clock, 99), 1109 + 1000);
        assert_eq!(clock.present().since, 500);
    }
}
