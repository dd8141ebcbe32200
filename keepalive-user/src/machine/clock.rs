//! The clocks of this machine, and the kernel's tick.

use anyhow::{Result, ensure};

use crate::core::{clock::Clock, event::When};

/// How the clocks relate now.
pub fn now() -> Result<Clock> {
    let offset_ns = read(libc::CLOCK_REALTIME)? - read(libc::CLOCK_MONOTONIC)?;
    Ok(Clock { offset_ns })
}

/// The present moment, by this relation.
pub fn when(clock: Clock) -> Result<When> {
    Ok(clock.at(monotonic_ns()?))
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
