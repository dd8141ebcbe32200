//! Waiting for a descriptor to be readable, in the event loop.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A copy of a descriptor, to wait on.
///
/// # Errors
/// If it cannot be copied, or is of a kind that nothing can wait on.
pub fn readable(of: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let copy = of.as_fd().try_clone_to_owned()?;
    // SAFETY: `register_with_interest` asks that the descriptor stays the same and open for as long as it
    // is registered. An `OwnedFd` never changes its number, this one is the `AsyncFd`'s own, and the
    // `AsyncFd` deregisters before it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) };
    Ok(registered?)
}
