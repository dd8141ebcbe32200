//! The clocks of this machine, and the kernel's tick.
//!
//! Reading one does not fail: these clocks are on every kernel.

use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

use crate::core::{
    clock::{Clock, Reading},
    event::When,
};

const SECOND: i64 = 1_000_000_000;
/// Attempts of a reading: the thread may lose its CPU in the middle of one.
const ATTEMPTS: usize = 8;

/// The offset between the clocks now.
pub fn now() -> Clock {
    let offset_ns = reading().realtime_ns;
    Clock { offset_ns }
}

/// Reads the clocks several times; the narrowest reading counts.
pub fn reading() -> Reading {
    narrowest(ATTEMPTS, read)
}

/// Reads the clocks once: cheap, and `uncertainty_ns` shows if it was interrupted.
pub fn glance() -> Reading {
    narrowest(1, read)
}

/// Reads the other clocks between two readings of CLOCK_MONOTONIC, and takes their middle as the time of both.
fn narrowest(attempts: usize, mut read: impl FnMut(ClockId) -> i64) -> Reading {
    let mut attempt = || {
        let before = read(ClockId::Monotonic);
        let (realtime, boottime) = (read(ClockId::Realtime), read(ClockId::Boottime));
        let width = positive(read(ClockId::Monotonic).saturating_sub(before));
        let middle = before.saturating_add((width / 2).cast_signed());
        Reading {
            at: positive(middle),
            realtime_ns: realtime.saturating_sub(middle),
            boottime_ns: boottime.saturating_sub(middle),
            uncertainty_ns: width,
        }
    };
    let first = attempt();
    (1..attempts).fold(first, |narrowest, _| {
        let other = attempt();
        if other.uncertainty_ns < narrowest.uncertainty_ns {
            other
        } else {
            narrowest
        }
    })
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

    /// A thread that loses its CPU for 4 ms in all attempts but one.
    #[test]
    fn an_interrupted_reading_does_not_count() {
        let (mut now, mut calls) = (1000 * SECOND, 0);
        let offset_ns = 77 * SECOND;
        let found = narrowest(ATTEMPTS, |clock| {
            calls += 1;
            // In the third attempt nothing happens.
            now += if (9..=12).contains(&calls) {
                50
            } else {
                4_000_000
            };
            if clock == ClockId::Realtime {
                now + offset_ns
            } else {
                now
            }
        });
        assert_eq!((calls, found.uncertainty_ns), (4 * ATTEMPTS, 150));
        assert!((found.realtime_ns - offset_ns).abs() <= 150, "{found:?}");
        assert!(found.boottime_ns.abs() <= 150, "{found:?}");
    }

    #[test]
    fn readings_of_this_machine_agree() {
        let mut watch = crate::core::clock::ClockWatch::new(reading());
        assert!(watch.agrees(&reading()) && watch.agrees(&glance()));
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
