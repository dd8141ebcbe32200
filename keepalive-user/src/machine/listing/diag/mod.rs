//! Lists sockets by netlink sock_diag(7): works without BPF and for every user, with what the kernel
//! reports to that user. Settings that it does not report are read from a copy of the descriptor
//! (`pidfd_getfd`).

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use keepalive_ebpf::{Known, Snapshot, SnapshotKind};
use linux_raw_sys::net::{AF_INET, AF_INET6};
use rustc_hash::FxHashMap;
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with, sockopt,
    },
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::{
    Found,
    holders::Holders,
    netlink::{Message, Moment, is_of_a_self_test, messages, request, snapshot},
};
use crate::{
    core::{
        event::Sysctls,
        exit::{Exit, Refusal},
    },
    machine::clock,
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
                Message::Refused(errno) => {
                    let error = io::Error::from_raw_os_error(errno);
                    bail!(Refusal::new(
                        Exit::Unsupported,
                        format!(
                            "the kernel refuses sock_diag: {error}; it needs the modules inet_diag \
                             and tcp_diag (modprobe tcp_diag), or root for the BPF iterator"
                        ),
                    ));
                }
                Message::Malformed => bail!("sock_diag sent a malformed message"),
            }
        }
    }
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

/// Settings that copies of the sockets did not give.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Sockets without settings.
    pub settings: u64,
    /// Attempts to copy that failed with EMFILE or ENFILE.
    pub too_many_files: u64,
}

/// Reads the settings from copies of the sockets: process by process, with one copy open at a time.
pub fn settings(
    sockets: &mut [Snapshot],
    owners: &Holders,
    sysctls: &FxHashMap<u32, Sysctls>,
) -> Unknown {
    let mut unknown = Unknown::default();
    let mut copies = Vec::new();
    for (index, socket) in sockets.iter_mut().enumerate() {
        if socket.kind != SnapshotKind::Socket {
            continue;
        }
        unknown.settings += 1;
        let held = owners.of(socket.id.inode).iter();
        copies.extend(held.map(|descriptor| (descriptor.pid, descriptor.fd, index)));
        if let Some(sysctls) = sysctls.get(&socket.id.netns) {
            socket.settings.sysctl_time = clamped(sysctls.time_ms);
            socket.settings.sysctl_interval = clamped(sysctls.interval_ms);
            socket.settings.sysctl_probes = sysctls.probes;
            socket.settings.sysctl_retries2 = sysctls.retries2;
        }
    }
    copies.sort_unstable();
    for held in copies.chunk_by(|(one, ..), (other, ..)| one == other) {
        for result in ask_process(held, sockets) {
            match result {
                Ok(()) => unknown.settings -= 1,
                Err(Errno::MFILE) => unknown.too_many_files += 1,
                Err(_) => {}
            }
        }
    }
    unknown
}

/// Copies the sockets of one process and reads the settings that are still unknown.
fn ask_process(
    held: &[(u32, RawFd, usize)],
    sockets: &mut [Snapshot],
) -> impl Iterator<Item = Result<(), Errno>> {
    let mut process = None;
    let mut forbidden = false;
    held.iter().filter_map(move |&(pid, fd, index)| {
        let socket = sockets.get_mut(index)?;
        if forbidden || socket.known.contains(Known::SETTINGS) {
            return None;
        }
        let process = match &process {
            Some(process) => process,
            None => match open_process(pid) {
                Ok(opened) => process.insert(opened),
                Err(error) => {
                    forbidden = true;
                    return Some(Err(error));
                }
            },
        };
        let result = copy(process, fd, socket.id.cookie).and_then(|copy| ask(&copy, socket));
        match &result {
            Ok(()) => socket.known |= Known::SETTINGS,
            // If one socket of a process may not be copied, none may.
            Err(error) => forbidden = *error == Errno::PERM,
        }
        Some(result)
    })
}

fn clamped(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// A copy of a process's descriptor, if it still is the socket with this cookie.
fn copy(process: &OwnedFd, fd: RawFd, cookie: u64) -> Result<OwnedFd, Errno> {
    let copy = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
    if sockopt::socket_cookie(&copy)? != cookie {
        return Err(Errno::NOENT);
    }
    Ok(copy)
}

fn open_process(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())
}

/// The settings in force, in ticks of a millisecond.
fn ask(socket: &OwnedFd, out: &mut Snapshot) -> Result<(), Errno> {
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    out.id.keepopen = sockopt::socket_keepalive(socket)?;
    out.settings.time = ms(sockopt::tcp_keepidle(socket)?);
    out.settings.interval = ms(sockopt::tcp_keepintvl(socket)?);
    out.settings.probes = sockopt::tcp_keepcnt(socket)?;
    out.settings.user_timeout = sockopt::tcp_user_timeout(socket)?;
    Ok(())
}

#[cfg(test)]
mod tests;
