//! # Diagnostics
//!
//! What goes to standard error. A live session does not wait for whoever reads it: from
//! [`start`] on a thread writes, and what is not read is dropped and counted.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;

use crate::output::{Policy, Queue};

/// How long the reader of the last lines is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes that may wait to be written.
const LIMIT: usize = 1 << 16;

static QUEUE: Mutex<Option<Queue>> = Mutex::new(None);

/// From now on nobody waits for the reader of standard error.
///
/// # Errors
/// If the descriptor cannot be copied.
pub fn start() -> Result<()> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = File::from(stderr);
    let policy = Policy::of(&file);
    *queue = Some(Queue::with_limit(file, policy, LIMIT));
    Ok(())
}

/// Writes one line. There is nowhere to report that it cannot be written.
pub fn line(text: &str) {
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(queue) = &mut *queue else {
        let _ = writeln!(io::stderr(), "{text}");
        return;
    };
    let (missed, _) = queue.take_missed();
    if missed > 0 {
        let _ =
            queue.offer(format!("keepalive: {missed} diagnostics are missing here\n").as_bytes());
    }
    let _ = queue.offer(format!("{text}\n").as_bytes());
    let _ = queue.flush();
}

/// Waits until all is written, as long as that is bearable.
pub fn finish() {
    if let Some(queue) = &mut *QUEUE.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = queue.finish(PATIENCE);
    }
}
