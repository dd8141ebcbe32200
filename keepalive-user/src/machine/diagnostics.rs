//! # Diagnostics
//!
//! The messages on standard error. A live session does not wait for their reader: it first holds the
//! lines, and from [`start`] on a thread writes them; lines that are not read are dropped and counted.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;

use super::queue::{Policy, Queue};
use crate::core::format::escape;

/// How long the reader may take for the last lines.
const PATIENCE: Duration = Duration::from_millis(100);

/// The limit of the queue, bytes.
const LIMIT: usize = 1 << 16;

/// The destination of lines.
enum To {
    /// Standard error: a slow reader delays the caller.
    Direct,
    /// Memory, until the thread that writes is started.
    Held(Vec<u8>),
    /// That thread: a slow reader misses lines.
    Queue(Queue),
}

static TO: Mutex<To> = Mutex::new(To::Direct);

fn to() -> MutexGuard<'static, To> {
    TO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds lines from now on, so that a slow reader of standard error delays nothing. [`start`] ends that:
/// the thread that writes must not start before privileges are dropped.
pub fn hold() {
    let mut to = to();
    if matches!(*to, To::Direct) {
        *to = To::Held(Vec::new());
    }
}

/// Starts to write the held lines.
///
/// # Errors
/// If the descriptor cannot be copied.
pub fn start() -> Result<()> {
    let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let policy = Policy::of(&file);
    let mut queue = Queue::with_limit(file, policy, LIMIT);
    let mut to = to();
    if let To::Held(lines) = &*to {
        let _ = queue.offer(lines);
        let _ = queue.flush();
    }
    *to = To::Queue(queue);
    Ok(())
}

/// Writes one line. A write error cannot be reported.
pub fn line(text: &str) {
    let text = format!("{text}\n");
    match &mut *to() {
        To::Direct => {
            let _ = io::stderr().write_all(text.as_bytes());
        }
        To::Held(lines) if lines.len() + text.len() <= LIMIT => lines.extend(text.as_bytes()),
        To::Held(_) => {}
        To::Queue(queue) => {
            let missed = queue.take_missed().lines;
            if missed > 0 {
                let missed = format!("keepalive: {missed} diagnostics are missing here\n");
                let _ = queue.offer(missed.as_bytes());
            }
            let _ = queue.offer(text.as_bytes());
            let _ = queue.flush();
        }
    }
}

/// Waits until everything is written, up to a limit.
pub fn finish() {
    if matches!(*to(), To::Held(_)) {
        // The session ended before [`start`].
        let _ = start();
    }
    if let To::Queue(queue) = &mut *to() {
        let _ = queue.finish(PATIENCE);
    }
}

/// Writes log records to stderr: ours, and those of the BPF programs, from aya-log.
struct Logger;

/// Sends the log to the diagnostics: warnings, and with `verbose` all levels.
pub fn install(verbose: bool) {
    log::set_max_level(if verbose {
        log::LevelFilter::Debug
    } else {
        log::LevelFilter::Warn
    });
    // It fails only if a logger is set already.
    let _ = log::set_logger(&Logger);
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // aya logs every relocation at debug level.
        metadata.target().starts_with("keepalive") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            let level = record.level().as_str().to_lowercase();
            line(&format!("keepalive: {level}: {}", escape(&text)));
        }
    }

    fn flush(&self) {}
}
