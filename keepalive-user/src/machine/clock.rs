//! The clocks of this machine, and the kernel's tick.
//!
//! Reading one does not fail: these clocks are on every kernel.

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

use crate::core::{clock::Clock, event::When};

const SECOND: i64 = 1_000_000_000;

/// The offset between the clocks now.
pub fn now() -> Clock {
    let offset_ns = read(ClockId::Realtime) - read(ClockId::Monotonic);
    Clock { offset_ns }
}

/// The present moment, with this offset.
pub fn when(clock: Clock) -> When {
    clock.at(monotonic_ns())
}

/// CLOCK_MONOTONIC, nanoseconds.
///
/// Async-signal-safe after the first call, which resolves the vDSO and may read /proc/self/auxv for it.
pub fn monotonic_ns() -> u64 {
    positive(read(ClockId::Monotonic))
}

/// CPU time of the calling thread so far, nanoseconds.
pub fn cpu_time() -> u64 {
    positive(read(ClockId::ThreadCPUTime))
}

fn read(clock: ClockId) -> i64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    tv_sec.saturating_mul(SECOND).saturating_add(tv_nsec)
}

/// These clocks begin at 0: at boot, or when the thread starts.
fn positive(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds).unwrap_or_default()
}

/// The kernel's ticks per second (HZ), from the resolution of the coarse clocks. Unlike the tick from BPF's
/// jiffies it needs no privilege; `None` if the value is not plausible.
pub fn hz() -> Option<u32> {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    let hz = (tick.tv_sec == 0)
        .then(|| SECOND.checked_div(tick.tv_nsec))
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

    #[test]
    fn clocks_go_forwards() {
        let (before, cpu) = (monotonic_ns(), cpu_time());
        assert!(before > 0);
        assert!(monotonic_ns() >= before && cpu_time() >= cpu);
        let wall = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let ours = before as i64 + now().offset_ns;
        assert!((wall.as_nanos() as i64 - ours).abs() < SECOND, "{ours}");
    }
}
