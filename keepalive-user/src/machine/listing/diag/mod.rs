//! Listing by netlink sock_diag(7): works without BPF and, as far as the kernel tells them,
//! for anybody. What it does not tell of a socket is asked of a copy of it (`pidfd_getfd`).

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result, bail};
use keepalive_ebpf::{KNOWN_SETTINGS, SNAPSHOT_SOCKET, Snapshot};
use rustc_hash::FxHashMap;

use super::{
    Found,
    holders::Owners,
    netlink::{Message, Moment, is_of_a_self_test, messages, request, snapshot},
};
use crate::{
    core::{
        event::Sysctls,
        exit::{Exit, Refusal},
    },
    machine::clock,
};

/// Larger than any datagram the kernel makes of a dump.
const DATAGRAM: usize = 1 << 16;
/// How often a dump that the kernel calls unsound is tried.
const ATTEMPTS: u32 = 3;

/// Finds every TCP socket of the calling thread's network namespace; false if the kernel could
/// not make a sound dump, however often it was asked.
pub fn dump(netns: u32, found: &mut Found, wanted: impl Fn(&Snapshot) -> bool) -> Result<bool> {
    let mut sound = true;
    for family in [libc::AF_INET, libc::AF_INET6] {
        sound &= dump_family(open, family as u8, netns, found, &wanted)?;
    }
    Ok(sound)
}

/// Each attempt has a socket of its own: what is left of the one before cannot be mistaken for its
/// answer, and the kernel makes one dump per socket at a time.
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
    send(socket, request(family, sequence).as_ref())?;
    let mut buffer = vec![0; DATAGRAM];
    let mut outcome = Outcome::Complete;
    // The kernel makes the next datagram while it hands out the one before.
    let mut made = clock::monotonic_ns()?;
    loop {
        let length = match receive(socket, &mut buffer) {
            Ok(length) => length,
            // The kernel could not queue what it had for us.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Ok(Outcome::Unsound);
            }
            Err(error) => return Err(error).context("cannot receive from sock_diag"),
        };
        let moment = Moment { time: made, netns };
        made = clock::monotonic_ns()?;
        let Some(datagram) = buffer.get(..length) else {
            bail!("sock_diag sent {length} bytes at once, more than any kernel does");
        };
        if datagram.is_empty() {
            bail!("sock_diag ended without an end");
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
                // No IPv6 here: nothing to list.
                Message::Refused(libc::ENOENT) if i32::from(family) == libc::AF_INET6 => {
                    return Ok(outcome);
                }
                Message::Refused(errno) => {
                    let error = io::Error::from_raw_os_error(errno);
                    bail!(Refusal::new(
                        Exit::Unsupported,
                        format!(
                            "the kernel refuses sock_diag: {error}; it takes the modules inet_diag \
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
    // SAFETY: takes no pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            libc::NETLINK_SOCK_DIAG,
        )
    };
    owned(fd.into())
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<()> {
    // SAFETY: the pointer and length are those of `bytes`. Without a destination it is the kernel.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error()).context("cannot send to sock_diag");
    }
    Ok(())
}

/// The real length of the datagram, also if it was longer than the buffer.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the pointer and length are those of `buffer`.
        let length = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        };
        match usize::try_from(length) {
            Ok(length) => return Ok(length),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// What copies of the sockets did not tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Sockets without settings.
    pub settings: u64,
    /// Attempts to copy that failed because we may not have more open files.
    pub too_many_files: u64,
}

/// Asks copies of the sockets for their settings: process by process, with one of them open at a
/// time.
pub fn settings(
    sockets: &mut [Snapshot],
    owners: &Owners,
    sysctls: &FxHashMap<u32, Sysctls>,
) -> Unknown {
    let mut unknown = Unknown::default();
    let mut copies = Vec::new();
    for (index, socket) in sockets.iter_mut().enumerate() {
        if socket.kind != SNAPSHOT_SOCKET {
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
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    unknown.too_many_files += 1;
                }
                Err(_) => {}
            }
        }
    }
    unknown
}

/// Asks copies of a process's sockets, as far as others did not tell yet.
fn ask_process(
    held: &[(u32, RawFd, usize)],
    sockets: &mut [Snapshot],
) -> impl Iterator<Item = io::Result<()>> {
    let mut process = None;
    let mut forbidden = false;
    held.iter().filter_map(move |&(pid, fd, index)| {
        let socket = sockets.get_mut(index)?;
        if forbidden || socket.known & KNOWN_SETTINGS != 0 {
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
        let told = copy(process, fd, socket.id.cookie).and_then(|copy| ask(&copy, socket));
        match &told {
            Ok(()) => socket.known |= KNOWN_SETTINGS,
            // What is forbidden for one socket of a process is for all.
            Err(error) => forbidden = error.raw_os_error() == Some(libc::EPERM),
        }
        Some(told)
    })
}

fn clamped(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// A copy of a process's descriptor, if it still is the socket with this cookie.
fn copy(process: &OwnedFd, fd: RawFd, cookie: u64) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    let copy = owned(copy)?;
    let found: u64 = option(copy.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE)?;
    if found != cookie {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(copy)
}

fn open_process(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// The settings in force, in ticks of a millisecond.
fn ask(socket: &OwnedFd, out: &mut Snapshot) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    let tcp = |name| option::<u32>(fd, libc::IPPROTO_TCP, name);
    let on: u32 = option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE)?;
    out.id.keepopen = u8::from(on != 0);
    out.settings.time = tcp(libc::TCP_KEEPIDLE)?.saturating_mul(1000);
    out.settings.interval = tcp(libc::TCP_KEEPINTVL)?.saturating_mul(1000);
    out.settings.probes = tcp(libc::TCP_KEEPCNT)?;
    out.settings.user_timeout = tcp(libc::TCP_USER_TIMEOUT)?;
    Ok(())
}

fn option<T: Default + zerocopy::FromBytes + zerocopy::IntoBytes>(
    fd: RawFd,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`, for which any bytes are a value.
    let result =
        unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor that a system call returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: new, and nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
