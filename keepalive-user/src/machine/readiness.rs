//! Waits in the event loop until a descriptor is readable.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a copy of a descriptor.
///
/// # Errors
/// If it cannot be copied, or cannot be polled.
pub fn readable(of: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = of.as_fd().try_clone_to_owned()?;
    // SAFETY: `register_with_interest` asks that the descriptor stays the same and open for as long as it
    // is registered. An `OwnedFd` never changes its number, this one is the `AsyncFd`'s own, and the
    // `AsyncFd` deregisters before it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
    Ok(registered?)
}
