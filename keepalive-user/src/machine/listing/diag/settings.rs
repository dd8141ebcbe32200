//! The settings of sockets that sock_diag does not report: from copies of the sockets (`pidfd_getfd`).

use std::{
    os::fd::{OwnedFd, RawFd},
    time::Duration,
};

use keepalive_ebpf::{Known, Snapshot, SnapshotKind};
use rustc_hash::FxHashMap;
use rustix::{
    io::Errno,
    net::sockopt,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::{core::event::Sysctls, machine::listing::Holders};

/// Settings that copies of the sockets did not give.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// Sockets without settings.
    pub settings: u64,
    /// Attempts to copy that failed with EMFILE or ENFILE.
    pub too_many_files: u64,
}

/// Reads the settings from copies of the sockets: process by process, with one copy open at a time.
pub fn read(
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
