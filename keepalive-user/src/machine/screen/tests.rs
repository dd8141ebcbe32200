//! What a panic leaves of the terminal, on a terminal of its own.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    process::Command,
};

use super::*;

const NAME: &str = "machine::screen::tests::a_panic_leaves_a_clean_terminal";
/// Set in the process that is to panic.
const ON_TERMINAL: &str = "KEEPALIVE_TEST_ON_TERMINAL";

/// Both ends of a new terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the pointers are to locals, or null where that is allowed.
    let result = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw const size,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: the kernel just gave us these descriptors, nobody else owns them.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// Local modes: echo, lines, signals.
fn modes(terminal: &OwnedFd) -> libc::tcflag_t {
    // SAFETY: all-zero is a valid termios.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local.
    let result = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut modes) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    modes.c_lflag
}

/// This test runs itself again, with a terminal, and that run panics.
#[test]
fn a_panic_leaves_a_clean_terminal() {
    if std::env::var_os(ON_TERMINAL).is_some() {
        let mut screen = Screen::open().unwrap();
        while !screen.draw(|_| ()).unwrap() {}
        panic!("on purpose");
    }
    let (ours, theirs) = terminal();
    let before = modes(&ours);
    let end = || theirs.as_fd().try_clone_to_owned().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(ON_TERMINAL, "1")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(theirs);
    let mut written = Vec::new();
    let mut reader = File::from(ours.as_fd().try_clone_to_owned().unwrap());
    // Ends with an error when the last of the other ends is closed.
    let _ = reader.read_to_end(&mut written);
    assert!(!child.wait().unwrap().success());
    assert_eq!(modes(&ours), before);
    let written = String::from_utf8_lossy(&written);
    let order: Vec<usize> = ["[?1049h", "[?25l", "[?1049l", "[?25h", "on purpose"]
        .iter()
        .map(|what| {
            assert_eq!(written.matches(what).count(), 1, "{what} in {written:?}");
            written.find(what).unwrap()
        })
        .collect();
    assert!(order.is_sorted(), "{written:?}");
}
