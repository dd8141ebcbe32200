//! Dumps as the kernel may send them, played by the other end of a socket pair.

use std::{os::unix::net::UnixDatagram, time::Duration};

use linux_raw_sys::netlink::{NLMSG_DONE, NLMSG_ERROR};

use super::*;

const INET: u8 = AF_INET as u8;
const INET6: u8 = AF_INET6 as u8;
const SOCKET: u16 = 20;
const DONE: u16 = NLMSG_DONE as u16;
const ERROR: u16 = NLMSG_ERROR as u16;
/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// The end of a dump: 0, or a negative errno.
fn done(flags: u16, sequence: u32, result: i32) -> Vec<u8> {
    message(DONE, flags, sequence, &result.to_ne_bytes())
}

/// A socket without attributes; its cookie identifies it.
fn socket(flags: u16, sequence: u32, cookie: u8) -> Vec<u8> {
    let mut body = vec![0; 72];
    body[0] = INET;
    body[1] = 1;
    body[44] = cookie;
    message(SOCKET, flags, sequence, &body)
}

/// The result of a dump if the kernel sends these datagrams, one script for each attempt.
fn play(family: u8, scripts: &[&[Vec<u8>]]) -> (Result<bool>, Vec<u64>) {
    let mut found = Found::default();
    let mut scripts = scripts.iter();
    let mut kernel = Vec::new();
    let open = || {
        let (ours, theirs) = UnixDatagram::pair()?;
        for datagram in scripts.next().into_iter().copied().flatten() {
            theirs.send(datagram)?;
        }
        // A script without an end fails the test instead of blocking it.
        ours.set_read_timeout(Some(Duration::from_secs(5)))?;
        kernel.push(theirs);
        Ok(ours.into())
    };
    let outcome = dump_family(open, family, 7, &mut found, |_| true);
    let cookies = found.sockets.iter().map(|socket| socket.id.cookie);
    (outcome, cookies.collect())
}

#[test]
fn a_dump_in_several_datagrams() {
    let two = [socket(2, 1, 10), socket(2, 1, 11)].concat();
    let script = [two, socket(2, 1, 12), done(2, 1, 0)];
    let (outcome, cookies) = play(INET, &[&script]);
    assert!(outcome.unwrap());
    assert_eq!(cookies, [10, 11, 12]);
}

#[test]
fn an_inconsistent_dump_is_repeated() {
    let interrupted_end = [socket(2, 1, 10), done(INTERRUPTED, 1, 0)];
    let interrupted_socket = [socket(INTERRUPTED, 2, 10), done(2, 2, 0)];
    let sound = [socket(2, 3, 11), done(2, 3, 0)];
    let (outcome, cookies) = play(INET, &[&interrupted_end, &interrupted_socket, &sound]);
    assert!(outcome.unwrap());
    assert_eq!(cookies, [11], "sockets of earlier attempts are discarded");
}

/// It is better than no sockets, and it is reported.
#[test]
fn the_last_inconsistent_dump_is_kept() {
    let [first, second, third] =
        [1, 2, 3].map(|sequence| [socket(INTERRUPTED, sequence, 9), done(2, sequence, 0)]);
    let (outcome, cookies) = play(INET, &[&first, &second, &third]);
    assert!(!outcome.unwrap());
    assert_eq!(cookies, [9]);
}

/// Only the body of the last message shows that the dump failed.
#[test]
fn a_dump_that_fails_is_a_refusal() {
    for script in [
        done(2, 1, -ENOENT),
        message(ERROR, 0, 1, &(-ENOENT).to_ne_bytes()),
    ] {
        let script = [script];
        let (outcome, _) = play(INET, &[&script]);
        let error = outcome.unwrap_err();
        assert!(error.to_string().contains("tcp_diag"), "{error:#}");
        let (outcome, _) = play(INET6, &[&script]);
        assert!(outcome.unwrap(), "a kernel without IPv6");
    }
}

#[test]
fn other_dumps_do_not_count() {
    let script = [
        [socket(2, 99, 10), done(2, 99, -Errno::PERM.raw_os_error())].concat(),
        [socket(2, 1, 11), done(2, 1, 0)].concat(),
    ];
    let (outcome, cookies) = play(INET, &[&script]);
    assert!(outcome.unwrap());
    assert_eq!(cookies, [11]);
}

#[test]
fn damage_is_an_error() {
    let mut cut = socket(2, 1, 10);
    cut.truncate(60);
    let short = message(SOCKET, 2, 1, &[0; 40]);
    let no_result = message(DONE, 2, 1, &[]);
    for datagram in [cut, short, no_result, vec![1, 2, 3], vec![0; 16]] {
        let script = [datagram];
        assert!(play(INET, &[&script]).0.is_err());
    }
    let long = [vec![0; DATAGRAM + 1]];
    let (outcome, _) = play(INET, &[&long]);
    assert!(outcome.unwrap_err().to_string().contains("at once"));
}
