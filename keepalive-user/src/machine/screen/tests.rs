//! The state of the terminal after a panic, on a pseudo-terminal.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    process::Command,
};

use rustix::{
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use super::*;

const NAME: &str = "machine::screen::tests::a_panic_leaves_a_clean_terminal";
/// Set in the process that panics.
const ON_TERMINAL: &str = "KEEPALIVE_TEST_ON_TERMINAL";

/// Both ends of a new terminal.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags).unwrap();
    unlockpt(&ours).unwrap();
    let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).unwrap();
    (ours, theirs)
}

/// Local modes: echo, lines, signals.
fn modes(terminal: &OwnedFd) -> LocalModes {
    tcgetattr(terminal).unwrap().local_modes
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
    // Reading fails when the last descriptor of the other end is closed.
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
