//! # The terminal
//!
//! Saves the modes of the terminal before the live screen takes it, and restores them from anywhere: the
//! end of the command, a panic, a signal handler.
//!
//! The functions that a signal handler calls make system calls (ioctl, poll, write) and nothing else:
//! rustix makes them directly, takes no lock and allocates nothing.

use std::{
    io::{self, BufRead, IsTerminal},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio::{stdin, stdout},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};

/// Leave the alternate screen, and show the cursor.
pub const LEAVE: &[u8] = b"\x1b[?1049l\x1b[?25h";

/// The saved modes; null while no screen has the terminal. The pointee is never freed.
static BEFORE: AtomicPtr<Termios> = AtomicPtr::new(ptr::null_mut());

/// Saves the modes of the terminal for [`restore`].
pub fn remember() {
    if let Ok(modes) = tcgetattr(stdin()) {
        BEFORE.store(Box::leak(Box::new(modes)), Ordering::SeqCst);
    }
}

/// Restores the modes; true if they were not restored before. Async-signal-safe.
pub fn restore_modes() -> bool {
    let modes = BEFORE.swap(ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: null, or from `remember`, which leaks what it points to: valid for ever, written by no one
    // after the store, and seen whole because the store and the swap are ordered.
    let Some(modes) = (unsafe { modes.as_ref() }) else {
        return false;
    };
    // The terminal may be closed.
    let _ = tcsetattr(stdin(), OptionalActions::Now, modes);
    true
}

/// Restores the modes and leaves the alternate screen, if a live screen has the terminal. It is
/// async-signal-safe and does not block: if the terminal does not take output, the screen is not left.
pub fn restore() {
    if restore_modes() && takes_output() {
        let _ = rustix::io::write(stdout(), LEAVE);
    }
}

/// Whether standard output is a terminal that wants colour (NO_COLOR, CLICOLOR, TERM).
pub fn wants_colour() -> bool {
    io::stdout().is_terminal()
        && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Whether a short write to standard output would not block. Async-signal-safe.
fn takes_output() -> bool {
    polled(PollFlags::OUT).is_some_and(|ready| ready.contains(PollFlags::OUT))
}

/// Whether the reader of standard output has closed it.
pub fn reader_has_gone() -> bool {
    polled(PollFlags::empty()).is_some_and(|ready| ready.contains(PollFlags::ERR))
}

/// The poll(2) events of standard output now; `None` if there are none.
fn polled(events: PollFlags) -> Option<PollFlags> {
    let stdout = stdout();
    let mut polled = [PollFd::new(&stdout, events)];
    let at_once = Timespec::default();
    (poll(&mut polled, Some(&at_once)) == Ok(1)).then(|| polled[0].revents())
}

/// Asks for a number from 1 to `most`.
///
/// # Errors
/// If the answer is another one.
pub fn ask_number(question: &str, most: usize) -> Result<usize> {
    anstream::eprint!("{question} [1-{most}] ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("stdin")?;
    number(line.trim(), most)
}

fn number(answer: &str, most: usize) -> Result<usize> {
    match answer.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => bail!("{answer:?} is not one of the numbers above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_numbers_that_were_shown_are_answers() {
        assert_eq!([number("1", 3).unwrap(), number("3", 3).unwrap()], [1, 3]);
        for answer in ["", "0", "4", "-1", "two"] {
            assert!(number(answer, 3).is_err(), "{answer:?}");
        }
    }
}
