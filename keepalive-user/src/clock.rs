//! # Time
//!
//! The kernel stamps events with CLOCK_MONOTONIC; people read wall clocks. One offset, taken at
//! the start, connects the two, so that a trace is consistent in itself.

use anyhow::{Result, ensure};
use jiff::Timestamp;

use crate::event::When;

/// The two clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CLOCK_REALTIME − CLOCK_MONOTONIC, nanoseconds.
    pub offset_ns: i64,
}

impl Clock {
    pub fn now() -> Result<Self> {
        let offset_ns = read(libc::CLOCK_REALTIME)? - read(libc::CLOCK_MONOTONIC)?;
        Ok(Self { offset_ns })
    }

    /// The present moment.
    pub fn when(&self) -> Result<When> {
        Ok(self.at(monotonic_ns()?))
    }

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

/// CLOCK_MONOTONIC, nanoseconds.
pub fn monotonic_ns() -> Result<u64> {
    Ok(u64::try_from(read(libc::CLOCK_MONOTONIC)?)?)
}

fn read(clock: libc::clockid_t) -> Result<i64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(
        result == 0,
        "clock_gettime: {}",
        std::io::Error::last_os_error()
    );
    Ok(time.tv_sec * 1_000_000_000 + time.tv_nsec)
}

/// The kernel's ticks per second (HZ): the coarse clocks move once a tick. Unlike the tick of BPF's
/// jiffies nobody needs a privilege to see it; `None` if it cannot be one.
pub fn hz() -> Option<u32> {
    let mut tick = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local.
    let result = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) };
    let hz = (result == 0 && tick.tv_sec == 0)
        .then(|| 1_000_000_000_i64.checked_div(tick.tv_nsec))
        .flatten()?;
    u32::try_from(hz)
        .ok()
        .filter(|hz| (24..=10_000).contains(hz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_is_one_that_kernels_are_built_with() {
        let hz = hz().unwrap();
        assert!([100, 250, 300, 1000].contains(&hz), "{hz}");
    }
}
