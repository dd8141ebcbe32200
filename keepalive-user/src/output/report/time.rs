//! The time scale of a report: since the trace began, in a bounded number of buckets.

use jiff::{Timestamp, tz::TimeZone};

use super::super::words;
use crate::core::{
    clock::{Clock, Offset, WallClock},
    event::When,
};

/// Maximum number of buckets. When time exceeds the last one, each two are merged.
pub const BUCKETS: usize = 120;
/// Length of the first buckets, nanoseconds.
const SHORTEST: u64 = 50_000_000;

/// The start and the width of the buckets.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The beginning of the trace.
    pub start: Timestamp,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC at the beginning, nanoseconds.
    start_offset_ns: i64,
    clock: WallClock,
    pub start_ns: u64,
    /// Length of a bucket, nanoseconds.
    pub width_ns: u64,
    /// The latest moment, nanoseconds since the beginning.
    pub end_ns: u64,
    /// A fixed offset, so that the page can print times without a time zone database.
    pub zone: TimeZone,
}

impl Scale {
    pub fn new(start: When, zone: &TimeZone) -> Self {
        let When {
            timestamp: start,
            monotonic_ns: start_ns,
        } = start;
        let offset = start.as_nanosecond() - i128::from(start_ns);
        let offset_ns = i64::try_from(offset).unwrap_or_default();
        Self {
            start,
            start_offset_ns: offset_ns,
            clock: WallClock::new(Clock { offset_ns }),
            start_ns,
            width_ns: SHORTEST,
            end_ns: 0,
            zone: TimeZone::fixed(zone.to_offset(start)),
        }
    }

    /// Later times have another offset.
    pub fn change(&mut self, offset: Offset) {
        self.clock.change(offset);
    }

    /// The steps of the wall clock: milliseconds since the beginning, and by how many milliseconds it is
    /// ahead of the beginning's offset from then on.
    pub fn clock_steps(&self) -> Vec<(u64, i64)> {
        let first = self.start_offset_ns;
        let steps = self.clock.steps();
        steps
            .map(|step| {
                let since = self.since(step.since) / 1_000_000;
                (since, step.offset_ns.saturating_sub(first) / 1_000_000)
            })
            .collect()
    }

    /// Nanoseconds since the beginning; earlier times are clamped to 0.
    pub fn since(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.start_ns)
    }

    /// Extends the scale to a moment. Returns how many times buckets must be merged in pairs.
    pub fn extend(&mut self, since: u64) -> u32 {
        self.end_ns = self.end_ns.max(since);
        let mut folds = 0;
        while since / self.width_ns >= BUCKETS as u64 {
            self.width_ns = self.width_ns.saturating_mul(2);
            folds += 1;
        }
        folds
    }

    pub fn bucket(&self, since: u64) -> usize {
        let bucket = usize::try_from(since / self.width_ns).unwrap_or(BUCKETS);
        bucket.min(BUCKETS - 1)
    }

    /// Number of buckets up to the latest moment.
    pub fn used(&self) -> usize {
        self.bucket(self.end_ns) + 1
    }

    /// Time of day of a moment since the beginning, to the second.
    pub fn clock(&self, since_ms: u64) -> String {
        words::clock(self.at(since_ms), &self.zone)
    }

    fn at(&self, since_ms: u64) -> Timestamp {
        let since = since_ms.saturating_mul(1_000_000);
        let at = self.start_ns.saturating_add(since);
        self.clock.at(at).timestamp
    }

    /// The first and the last moment, with dates.
    pub fn period(&self) -> String {
        let (first, last) = (self.start, self.at(self.end_ns / 1_000_000));
        format!(
            "{} {} – {}",
            self.zone.to_datetime(first).date(),
            words::clock(first, &self.zone),
            words::moment(last, first, &self.zone)
        )
    }

    /// `UTC+02:00`.
    pub fn zone_name(&self) -> String {
        let seconds = self.zone.to_offset(self.start).seconds();
        if seconds == 0 {
            return "UTC".to_owned();
        }
        let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
        format!("UTC{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }

    /// The ticks of an axis, milliseconds since the beginning, at round times of day.
    pub fn ticks(&self, from_ms: u64, to_ms: u64, most: u64) -> Vec<u64> {
        let step = step(to_ms.saturating_sub(from_ms), most);
        let offset = i64::from(self.zone.to_offset(self.start).seconds()) * 1000;
        let midnight = (self.start.as_millisecond() + offset).rem_euclid(86_400_000) as u64;
        let first = (midnight + from_ms).div_ceil(step) * step - midnight;
        (0..=most + 1)
            .map(|number| first + number * step)
            .take_while(|&tick| tick <= to_ms)
            .collect()
    }
}

/// Steps of a time axis, milliseconds.
pub const STEPS_MS: [u64; 22] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000,
    600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000,
    86_400_000,
];

fn step(length: u64, most: u64) -> u64 {
    let fits = |step: &u64| length / step <= most;
    let days = || (length / most / 86_400_000 + 1) * 86_400_000;
    STEPS_MS.into_iter().find(fits).unwrap_or_else(days)
}

/// Merges each two buckets into one.
pub fn fold<T: Copy + Default>(buckets: &mut Vec<T>, join: impl Fn(T, T) -> T) {
    let folded = buckets
        .chunks(2)
        .map(|pair| match *pair {
            [one, other] => join(one, other),
            [one] => one,
            _ => T::default(),
        })
        .collect();
    *buckets = folded;
}
