//! # Stopping
//!
//! SIGINT, SIGTERM, SIGQUIT, SIGHUP (unless it is ignored, as nohup(1) has it) and the end of `-d` set a flag that every loop of a live session reads: start-up,
//! a burst, the wait for a slow reader. A second signal ends the process at once, by the signal's
//! default action. Signals belong to the process, and so does this state.

use std::{
    fs,
    future::poll_fn,
    io,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use anyhow::{Context, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ},
    low_level::{emulate_default_handler, register},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Makes the signals requests to stop.
///
/// # Errors
/// If the kernel refuses the handlers.
pub fn install() -> Result<()> {
    // The first reading of a clock is not async-signal-safe (`clock::monotonic_ns`): it is this one.
    let _ = monotonic_ns();
    for signal in handled() {
        // SAFETY: the handler is async-signal-safe: it reads a clock whose vDSO is resolved
        // above, uses atomics, and ends in functions that are (`terminal::restore`,
        // `emulate_default_handler`). It does not panic and allocates nothing.
        unsafe { register(signal, move || received(signal)) }.context("cannot handle signals")?;
    }
    Ok(())
}

/// The signals that are requests to stop.
fn handled() -> impl Iterator<Item = i32> {
    let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    [SIGINT, SIGTERM, SIGQUIT].into_iter().chain(hangup)
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

/// As [`is_ignored`], from /proc/PID/status.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The signals of [`install`], as events that wake a loop to check [`is_requested`].
pub struct Requests(Vec<Signal>);

impl Requests {
    /// # Errors
    /// If the kernel refuses the handlers.
    pub fn new() -> Result<Self> {
        let streams = handled().map(|number| signal(SignalKind::from_raw(number)));
        let streams = streams.collect::<io::Result<_>>();
        streams.map(Self).context("cannot handle signals")
    }

    /// The next signal. It is cancellation safe.
    pub async fn recv(&mut self) {
        poll_fn(|context| {
            let mut streams = self.0.iter_mut();
            if streams.any(|stream| stream.poll_recv(context).is_ready()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// Makes a write beyond the limit of the file size (RLIMIT_FSIZE) fail with EFBIG instead of ending the
/// process.
///
/// # Errors
/// If the kernel refuses the handler.
pub fn survive_file_size_limit() -> Result<()> {
    // SAFETY: the handler does nothing.
    unsafe { register(SIGXFSZ, || {}) }.context("cannot handle signals")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_nohup_ignores_stays_ignored() {
        let status = |mask: &str| format!("Name:\tx\nSigIgn:\t{mask}\nSigCgt:\tffffffff\n");
        assert!(ignores(&status("0000000000001001"), SIGHUP));
        assert!(!ignores(&status("0000000000001000"), SIGHUP));
        assert!(!ignores("", SIGHUP));
    }
}
