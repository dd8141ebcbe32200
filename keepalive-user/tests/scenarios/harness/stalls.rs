//! Measures how long this machine stalled: a thread sleeps and compares the clock. An emulated
//! guest stalls whenever its host is busy; its ticks are then late by the same amount, and so is
//! everything that the kernel counts in ticks.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::kit::sys;

/// When a stall ended, CLOCK_MONOTONIC nanoseconds, and how long it was, milliseconds.
static STALLS: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

const STEP: Duration = Duration::from_millis(5);
/// Shorter stalls are within the normal tolerance.
const LEAST_MS: u64 = 10;
/// Scenarios check an event within this time after it happened.
const LATELY_NS: u64 = 15_000_000_000;

/// Starts the measuring thread, which runs until the process ends.
pub fn watch() {
    thread::spawn(|| {
        loop {
            let before = sys::monotonic_ns();
            thread::sleep(STEP);
            let now = sys::monotonic_ns();
            let late_ms = (now - before).saturating_sub(STEP.as_nanos() as u64) / 1_000_000;
            if late_ms >= LEAST_MS {
                let mut stalls = STALLS.lock().unwrap_or_else(|broken| broken.into_inner());
                stalls.push((now, late_ms));
            }
        }
    });
}

/// The longest recent stall, milliseconds.
pub fn longest_ms() -> u64 {
    longest_ms_since(sys::monotonic_ns().saturating_sub(LATELY_NS))
}

/// The longest stall since a point in time (CLOCK_MONOTONIC nanoseconds), milliseconds.
pub fn longest_ms_since(since: u64) -> u64 {
    let stalls = STALLS.lock().unwrap_or_else(|broken| broken.into_inner());
    let late = stalls.iter().rev().take_while(|(at, _)| *at >= since);
    late.map(|(_, ms)| *ms).max().unwrap_or(0)
}
