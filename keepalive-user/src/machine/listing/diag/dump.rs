//! The dumps of sock_diag.

use std::{io, os::fd::OwnedFd};

use anyhow::{Context, Result, bail};
use keepalive_ebpf::Snapshot;
use linux_raw_sys::net::{AF_INET, AF_INET6};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};

use crate::{
    core::exit::{Exit, Refusal},
    machine::{
        clock,
        listing::{
            found::Found,
            netlink::{Message, Moment, is_of_a_self_test, messages, request, snapshot},
        },
    },
};

/// Larger than any datagram that the kernel sends in a dump.
const DATAGRAM: usize = 1 << 16;
/// Attempts to get a dump that the kernel does not mark inconsistent.
const ATTEMPTS: u32 = 3;
/// The value in the header of a message.
const ENOENT: i32 = Errno::NOENT.raw_os_error();

/// Finds every TCP socket of the calling thread's network namespace; false if no attempt gave a consistent
/// dump.
pub fn dump(netns: u32, found: &mut Found, wanted: impl Fn(&Snapshot) -> bool) -> Result<bool> {
    let mut sound = true;
    for family in [AF_INET, AF_INET6] {
        sound &= dump_family(open, family as u8, netns, found, &wanted)?;
    }
    Ok(sound)
}

/// Each attempt has a socket of its own: messages of an earlier attempt cannot be mixed with it, and the
/// kernel makes one dump per socket at a time.
fn dump_family(
    mut open: impl FnMut() -> io::Result<OwnedFd>,
    family: u8,
    netns: u32,
    found: &mut Found,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Result<bool> {
    let before = found.len();
    for sequence in 1..=ATTEMPTS {
        found.forget_since(before);
        let socket = open().context("cannot open a sock_diag socket")?;
        let mut add = |socket: &Snapshot, of_a_self_test: bool| {
            if of_a_self_test {
                found.leave_out(socket);
            } else if wanted(socket) {
                found.add(socket);
            }
        };
        match dump_once(&socket, family, sequence, netns, &mut add)? {
            Outcome::Complete => return Ok(true),
            Outcome::Unsound => {}
        }
    }
    Ok(false)
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Complete,
    Unsound,
}

fn dump_once(
    socket: &OwnedFd,
    family: u8,
    sequence: u32,
    netns: u32,
    each: &mut impl FnMut(&Snapshot, bool),
) -> Result<Outcome> {
    let request = request(family, sequence);
    // Without a destination address the message goes to the kernel.
    send(socket, request.as_ref(), SendFlags::empty())
        .map_err(io::Error::from)
        .context("cannot send to sock_diag")?;
    let mut buffer = vec![0; DATAGRAM];
    let mut outcome = Outcome::Complete;
    // The kernel builds the next datagram while this one is received.
    let mut made = clock::monotonic_ns();
    loop {
        let length = match receive(socket, &mut buffer) {
            Ok(length) => length,
            // ENOBUFS: the kernel could not queue a message.
            Err(Errno::NOBUFS) => return Ok(Outcome::Unsound),
            Err(error) => {
                let error = io::Error::from(error);
                return Err(error).context("cannot receive from sock_diag");
            }
        };
        let moment = Moment { time: made, netns };
        made = clock::monotonic_ns();
        let Some(datagram) = buffer.get(..length) else {
            bail!("sock_diag sent {length} bytes at once, more than any kernel sends");
        };
        if datagram.is_empty() {
            bail!("sock_diag ended the dump without NLMSG_DONE");
        }
        for (interrupted, message) in messages(datagram, sequence) {
            if interrupted {
                outcome = Outcome::Unsound;
            }
            match message {
                Message::Socket(body) => {
                    let socket = snapshot(body, moment);
                    let socket = socket.context("sock_diag sent a socket that is too short")?;
                    each(&socket, is_of_a_self_test(body, &socket.id));
                }
                Message::Done => return Ok(outcome),
                // The kernel has no IPv6: there is nothing to list.
                Message::Refused(ENOENT) if u32::from(family) == AF_INET6 => {
                    return Ok(outcome);
                }
                Message::Refused(errno) => return Err(refusal(errno).into()),
                Message::Malformed => bail!("sock_diag sent a malformed message"),
            }
        }
    }
}

fn refusal(errno: i32) -> Refusal {
    let error = io::Error::from_raw_os_error(errno);
    Refusal::new(
        Exit::Unsupported,
        format!(
            "the kernel refuses sock_diag: {error}; it needs the modules inet_diag and tcp_diag \
             (modprobe tcp_diag), or root for the BPF iterator"
        ),
    )
}

fn open() -> io::Result<OwnedFd> {
    let family = AddressFamily::NETLINK;
    let protocol = Some(netlink::SOCK_DIAG);
    Ok(socket_with(
        family,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        protocol,
    )?)
}

/// The real length of the datagram, also if it was longer than the buffer.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let (_, length) = retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::TRUNC))?;
    Ok(length)
}

#[cfg(test)]
mod tests;
