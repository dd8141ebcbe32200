//! Resolving owners end to end, with sockets of this process.

use std::{
    net::TcpListener,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    time::Instant,
};

use super::*;

fn inode_of(socket: &impl AsRawFd) -> u64 {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    fs::metadata(path).unwrap().ino()
}

/// Resolves a socket as its events would, until a process is found or the time is over.
fn resolved(owners: &mut LiveOwners, inode: u64, patience: Duration) -> Option<u32> {
    let begin = Instant::now();
    loop {
        owners.take_answers(monotonic_ns());
        if let Some(want) = owners.held.resolve(inode, monotonic_ns(), false, &mut Proc) {
            owners.ask(Subject::Inode(inode), want);
        }
        let process = owners.process(inode);
        if process.is_some() || begin.elapsed() > patience {
            return process.map(|process| process.pid);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_first_pass_finds_existing_sockets() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut owners = LiveOwners::new(true, None, true);
    owners.start(None);
    owners.await_first_pass(Duration::from_secs(30));
    let found = resolved(&mut owners, inode_of(&listener), Duration::ZERO);
    assert_eq!(found, Some(std::process::id()));
}

#[test]
fn a_later_socket_is_found_by_a_later_pass() {
    let mut owners = LiveOwners::new(true, None, true);
    owners.start(None);
    owners.await_first_pass(Duration::from_secs(30));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let inode = inode_of(&listener);
    let found = resolved(&mut owners, inode, Duration::from_secs(60));
    assert_eq!(found, Some(std::process::id()));
    // A socket that no process holds.
    let patience = Duration::from_millis(300);
    for inode in [u64::MAX, 0] {
        assert_eq!(resolved(&mut owners, inode, patience), None);
    }
}

/// A task that acted is checked again without an event, and is not an owner if it holds no descriptor.
#[test]
fn an_acting_task_is_verified() {
    let mut owners = LiveOwners::new(true, None, true);
    owners.start(None);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let inode = inode_of(&listener);
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let mut comm = [0; 16];
    comm[..5].copy_from_slice(b"sleep");
    owners.acted(inode, (child.id(), comm), monotonic_ns());
    let process = owners.process(inode).unwrap();
    assert_eq!((process.pid, &*process.comm), (child.id(), "sleep"));
    let begin = Instant::now();
    while owners.process(inode).map(|process| process.pid) == Some(child.id()) {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
        owners.take_answers(monotonic_ns());
        owners.held.resolve(inode, monotonic_ns(), false, &mut Proc);
    }
    // The pass that follows finds the holder.
    let found = resolved(&mut owners, inode, Duration::from_secs(60));
    assert_eq!(found, Some(std::process::id()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The thread ends when the owners are dropped, whatever it is doing.
#[test]
fn the_thread_is_not_waited_for() {
    let mut owners = LiveOwners::new(true, None, true);
    owners.start(None);
    let begin = Instant::now();
    drop(owners);
    assert!(begin.elapsed() < Duration::from_secs(1));
}
