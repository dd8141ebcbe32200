//! # Time
//!
//! The kernel stamps events with CLOCK_MONOTONIC; people read wall clocks. One offset, measured at
//! the start, converts between the two, so that a trace is consistent in itself.

use jiff::Timestamp;

use super::event::When;

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
