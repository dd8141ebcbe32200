//! # The terminal
//!
//! How it was before the live screen took it, and how to give it back from anywhere: the end of the
//! command, a panic, a signal handler.

use std::{
    io::{self, IsTerminal},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

/// Leave the alternate screen, and show the cursor.
pub const LEAVE: &[u8] = b"\x1b[?1049l\x1b[?25h";

/// The modes to go back to; null while the terminal is not ours. What it points to is never freed.
static BEFORE: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());

/// Remembers the modes of the terminal: from now on there is something to restore.
pub fn remember() {
    // SAFETY: all-zero is a valid termios.
    let mut modes: Box<libc::termios> = Box::new(unsafe { std::mem::zeroed() });
    // SAFETY: the pointer is to a live allocation.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &raw mut *modes) } == 0 {
        BEFORE.store(Box::into_raw(modes), Ordering::SeqCst);
    }
}

/// Restores the modes; true if they were not restored before.
pub fn restore_modes() -> bool {
    let modes = BEFORE.swap(ptr::null_mut(), Ordering::SeqCst);
    if modes.is_null() {
        return false;
    }
    // SAFETY: the pointer is from `remember` and never freed.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, modes) };
    true
}

/// Restores the modes and leaves the alternate screen, if a live screen has the terminal. It is
/// async-signal-safe, and never waits: a terminal that takes nothing is left as it is.
pub fn restore() {
    if !restore_modes() || !takes_output(libc::STDOUT_FILENO) {
        return;
    }
    // SAFETY: the pointer and the length are of a constant.
    unsafe { libc::write(libc::STDOUT_FILENO, LEAVE.as_ptr().cast(), LEAVE.len()) };
}

/// Whether standard output is a terminal that wants colour (NO_COLOR, CLICOLOR, TERM).
pub fn wants_colour() -> bool {
    io::stdout().is_terminal()
        && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Whether a short write to this descriptor would not block. Async-signal-safe.
fn takes_output(fd: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one element, which is a local.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLOUT != 0 }
}
