//! How late the kernel's timers run: late by design, never early.
//!
//! `calc_wheel_index` (kernel/time/timer.c) sorts a timer by its length into a level of the timer
//! wheel. Level n ≥ 1 begins at 63 × 8^(n−1) ticks and has granules of 8^n ticks; a timer runs at
//! the end of the granule of its deadline, so at most one granule late.

/// Possible ticks per second, if those of the kernel are unknown.
const HZ: [u32; 4] = [100, 250, 300, 1000];
/// The last level's granule.
const COARSEST: u64 = 8_u64.pow(8);

/// The latest run of a timer of this length, milliseconds, on a kernel with `hz` ticks per
/// second, or on any kernel without it.
pub fn latest(length_ms: u64, hz: Option<u32>) -> u64 {
    let kernels = hz.as_slice();
    let kernels = if kernels.is_empty() { &HZ } else { kernels };
    let late = kernels.iter().map(|&hz| late(length_ms, hz.max(1).into()));
    length_ms.saturating_add(late.max().unwrap_or_default())
}

/// A granule, and one tick for the softirq.
fn late(length_ms: u64, hz: u64) -> u64 {
    let ticks = u128::from(length_ms) * u128::from(hz) / 1000;
    // The wheel's clock may be a tick behind.
    let granule = granule(u64::try_from(ticks + 1).unwrap_or(u64::MAX));
    ((granule + 1) * 1000).div_ceil(hz)
}

/// Ticks of the granule that a timer of this many ticks is rounded up to.
fn granule(ticks: u64) -> u64 {
    let mut granule = 1;
    while granule < COARSEST && ticks >= 63 * granule {
        granule *= 8;
    }
    granule
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measured at 250 ticks per second, by the tracepoint `timer_start`: 7200 s, 3600 s, 300 s,
    /// 75 s and 10 s were put up to 34, 95, 10, 1.5 and 0.24 s late.
    #[test]
    fn granules() {
        assert_eq!([0, 62, 63, 503, 504].map(granule), [1, 1, 8, 8, 64]);
        let late = [7200, 3600, 300, 75, 10].map(|s| late(s * 1000, 250));
        assert_eq!(late, [131_076, 131_076, 16_388, 2_052, 260]);
    }

    #[test]
    fn the_slowest_kernel_decides_if_the_tick_is_unknown() {
        let all = HZ.map(|hz| latest(1000, Some(hz)));
        assert_eq!(all, [1090, 1036, 1030, 1065]);
        assert_eq!(latest(1000, None), 1090);
        assert_eq!(latest(u64::MAX, None), u64::MAX);
    }
}
