//! # Diagnostics
//!
//! What goes to standard error. A live session does not wait for its reader: it holds its lines at
//! first, and from [`start`] on a thread writes; what is not read is dropped and counted.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;

use super::queue::{Policy, Queue};
use crate::core::words::escape;

/// How long the reader of the last lines is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes that may wait to be written.
const LIMIT: usize = 1 << 16;

/// Where lines go.
enum To {
    /// To standard error: a slow reader delays us.
    Direct,
    /// To memory, until there is a thread that writes.
    Held(Vec<u8>),
    /// To that thread: a slow reader misses lines.
    Queue(Queue),
}

static TO: Mutex<To> = Mutex::new(To::Direct);

fn to() -> MutexGuard<'static, To> {
    TO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a slow reader of standard error delays nothing. Lines are held until [`start`], for the
/// thread that writes them must not start before privileges are dropped.
pub fn hold() {
    let mut to = to();
    if matches!(*to, To::Direct) {
        *to = To::Held(Vec::new());
    }
}

/// Starts to write what was held.
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

/// Writes one line. There is nowhere to report that it cannot be written.
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

/// Waits until all is written, as long as that is bearable.
pub fn finish() {
    if matches!(*to(), To::Held(_)) {
        // The session never got so far.
        let _ = start();
    }
    if let To::Queue(queue) = &mut *to() {
        let _ = queue.finish(PATIENCE);
    }
}

/// Diagnostics go to stderr: ours, and those of the BPF programs that aya-log hands over.
struct Logger;

/// From now on the log is diagnostics: warnings, and with `verbose` all.
pub fn install(verbose: bool) {
    log::set_max_level(if verbose {
        log::LevelFilter::Debug
    } else {
        log::LevelFilter::Warn
    });
    // Fails only if a logger is set already.
    let _ = log::set_logger(&Logger);
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // aya narrates every relocation at debug level.
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
