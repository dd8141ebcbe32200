//! # Stopping
//!
//! SIGINT, SIGTERM and the end of `-d` set a flag that every loop of a live session reads: start-up,
//! a burst, the wait for a slow reader. A second signal ends the process at once, by the signal's
//! default action. Signals belong to the process, and so does this state.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level::{emulate_default_handler, register},
};

use super::{clock::monotonic_ns, terminal};
use crate::core::exit::Interrupted;

/// The value without a request or a deadline.
const NEVER: u64 = u64::MAX;
/// CLOCK_MONOTONIC of the first signal, nanoseconds.
static SIGNALLED: AtomicU64 = AtomicU64::new(NEVER);
/// CLOCK_MONOTONIC of the end of `-d`, nanoseconds.
static DEADLINE: AtomicU64 = AtomicU64::new(NEVER);
/// A signal that comes this soon after another is the same request: timeout(1) signals its child,
/// and then the child's process group.
const SAME_REQUEST: Duration = Duration::from_millis(50);

/// Makes SIGINT and SIGTERM requests to stop.
///
/// # Errors
/// If the kernel refuses the handlers.
pub fn install() -> Result<()> {
    // The first reading of a clock is not async-signal-safe (`clock::monotonic_ns`): it is this one.
    let _ = monotonic_ns();
    for signal in [SIGINT, SIGTERM] {
        // SAFETY: the handler is async-signal-safe: it reads a clock whose vDSO is resolved
        // above, uses atomics, and ends in functions that are (`terminal::restore`,
        // `emulate_default_handler`). It does not panic and allocates nothing.
        unsafe { register(signal, move || received(signal)) }.context("cannot handle signals")?;
    }
    Ok(())
}

/// The signal handler.
fn received(signal: i32) {
    let now = monotonic_ns();
    let first = SIGNALLED.compare_exchange(NEVER, now, Ordering::SeqCst, Ordering::SeqCst);
    if let Err(first) = first
        && now.saturating_sub(first) > SAME_REQUEST.as_nanos() as u64
    {
        terminal::restore();
        // It ends the process; if it fails, the first request remains.
        let _ = emulate_default_handler(signal);
    }
}

/// Ends the session this long from now.
pub fn after(duration: Duration) {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(NEVER);
    DEADLINE.store(monotonic_ns().saturating_add(nanoseconds), Ordering::SeqCst);
}

/// How long until the end of `-d`; `None` without one.
pub fn deadline() -> Option<Duration> {
    let at = DEADLINE.load(Ordering::Relaxed);
    (at != NEVER).then(|| Duration::from_nanos(at.saturating_sub(monotonic_ns())))
}

/// Whether the session has to stop.
pub fn is_requested() -> bool {
    let at = SIGNALLED
        .load(Ordering::Relaxed)
        .min(DEADLINE.load(Ordering::Relaxed));
    at != NEVER && at <= monotonic_ns()
}

/// Checks for a request between two steps of start-up.
///
/// # Errors
/// [`Interrupted`] if the session has to stop.
pub fn check() -> Result<()> {
    if is_requested() {
        return Err(Interrupted.into());
    }
    Ok(())
}
