//! # Time
//!
//! The kernel stamps events with CLOCK_MONOTONIC; people read wall clocks. One offset, taken at
//! the start, connects the two, so that a trace is consistent in itself.

use jiff::Timestamp;

use super::event::When;

/// How the two clocks of a machine relate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CLOCK_REALTIME − CLOCK_MONOTONIC, nanoseconds.
    pub offset_ns: i64,
}

impl Clock {
    /// A moment on CLOCK_MONOTONIC.
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
