//! Listing by netlink sock_diag(7): works without BPF and, as far as the kernel tells them,
//! for anybody. What it does not tell of a socket is asked of a copy of it (`pidfd_getfd`).

use std::{
    collections::hash_map::Entry,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result, bail};
use keepalive_ebpf::{KNOWN_SETTINGS, SNAPSHOT_SOCKET, Snapshot};
use rustc_hash::FxHashMap;

use super::{
    Found,
    netlink::{Message, Moment, messages, request, snapshot},
    owners::Owners,
};
use crate::{
    clock,
    descriptors::Descriptor,
    event::Sysctls,
    exit::{Exit, Refusal},
};

/// Larger than any datagram the kernel makes of a dump.
const DATAGRAM: usize = 1 << 16;
/// How often a dump that the kernel calls unsound is tried.
const ATTEMPTS: u32 = 3;

/// Finds every TCP socket of the calling thread's network namespace; false if the kernel could
/// not make a sound dump, however often it was asked.
pub fn dump(
    netns: u32,
    admin: bool,
    found: &mut Found,
    wanted: impl Fn(&Snapshot) -> bool,
) -> Result<bool> {
    let socket = open().context("cannot open a sock_diag socket")?;
    let mut sound = true;
    let mut sequence = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let before = found.len();
        let mut attempt = 1;
        loop {
            sequence += 1;
            found.forget_since(before);
            let moment = Moment {
                time: clock::monotonic_ns()?,
                netns,
                admin,
            };
            let mut add = |socket: &Snapshot| {
                if wanted(socket) {
                    found.add(socket);
                }
            };
            match dump_once(&socket, family as u8, sequence, moment, &mut add)? {
                Outcome::Complete => break,
                Outcome::Unsound if attempt < ATTEMPTS => attempt += 1,
                Outcome::Unsound => {
                    sound = false;
                    break;
                }
            }
        }
    }
    Ok(sound)
}

enum Outcome {
    Complete,
    Unsound,
}

fn dump_once(
    socket: &OwnedFd,
    family: u8,
    sequence: u32,
    moment: Moment,
    each: &mut impl FnMut(&Snapshot),
) -> Result<Outcome> {
    send(socket, request(family, sequence).as_ref())?;
    let mut buffer = vec![0; DATAGRAM];
    let mut outcome = Outcome::Complete;
    loop {
        let length = match receive(socket, &mut buffer) {
            Ok(length) => length,
            // The kernel could not queue what it had for us.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                return Ok(Outcome::Unsound);
            }
            Err(error) => return Err(error).context("cannot receive from sock_diag"),
        };
        let Some(datagram) = buffer.get(..length) else {
            bail!("sock_diag sent {length} bytes at once, more than any kernel does");
        };
        for message in messages(datagram, sequence) {
            match message {
                Message::Socket(body) => {
                    let socket = snapshot(body, moment);
                    each(&socket.context("sock_diag sent a socket that is too short")?);
                }
                Message::Done => return Ok(outcome),
                Message::Interrupted => outcome = Outcome::Unsound,
                // No IPv6 here, no TCP diag module: nothing to list, or nothing we may load.
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

/// Asks copies of the sockets for their settings; returns how many did not answer.
pub fn settings(
    sockets: &mut [Snapshot],
    owners: &Owners,
    sysctls: &FxHashMap<u32, Sysctls>,
) -> u64 {
    let mut processes = FxHashMap::default();
    let mut unknown = 0;
    for socket in sockets {
        if socket.kind != SNAPSHOT_SOCKET {
            continue;
        }
        let copy = owners
            .of(socket.id.inode)
            .iter()
            .find_map(|descriptor| copy(*descriptor, socket.id.cookie, &mut processes));
        match copy.and_then(|copy| ask(&copy, socket).ok()) {
            Some(()) => socket.known |= KNOWN_SETTINGS,
            None => unknown += 1,
        }
        if let Some(sysctls) = sysctls.get(&socket.id.netns) {
            socket.settings.sysctl_time = clamped(sysctls.time_ms);
            socket.settings.sysctl_interval = clamped(sysctls.interval_ms);
            socket.settings.sysctl_probes = sysctls.probes;
            socket.settings.sysctl_retries2 = sysctls.retries2;
        }
    }
    unknown
}

fn clamped(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// A copy of the descriptor, if it still is the socket with this cookie.
fn copy(
    descriptor: Descriptor,
    cookie: u64,
    processes: &mut FxHashMap<u32, Option<OwnedFd>>,
) -> Option<OwnedFd> {
    let process = match processes.entry(descriptor.pid) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(open_process(descriptor.pid)),
    };
    let pidfd = process.as_ref()?;
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), descriptor.fd, 0) };
    let copy = match owned(fd) {
        Ok(copy) => copy,
        Err(error) => {
            // What is forbidden for one socket of a process is for all.
            if error.raw_os_error() == Some(libc::EPERM) {
                *process = None;
            }
            return None;
        }
    };
    let found: u64 = option(copy.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE).ok()?;
    (found == cookie).then_some(copy)
}

fn open_process(pid: u32) -> Option<OwnedFd> {
    // SAFETY: takes no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).ok()
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
