//! Safe wrappers for the system calls that the suite needs: socket options, ioctls, process names.
//!
//! This module does not depend on keepalive.

use std::ffi::{CStr, c_int};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, pause, poll};
use rustix::io::{FdFlags, dup, fcntl_setfd};
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, setrlimit, waitpid,
};
use rustix::time::{ClockId, clock_gettime};

/// Turns the C convention (-1 and errno) into a `Result`.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A new socket that no child process inherits.
pub fn socket(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<Protocol>,
) -> io::Result<OwnedFd> {
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?)
}

/// Plain data the kernel may read from or write into.
///
/// # Safety
/// Every bit pattern must be a valid value and there must be no padding the kernel could leak into.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for c_int {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: integers and bit-fields the kernel fills.
unsafe impl Plain for libc::tcp_info {}
// SAFETY: a length and a pointer, both only read by the kernel.
unsafe impl Plain for libc::sock_fprog {}

/// setsockopt(2), for options that rustix does not have.
pub fn set_option<T: Plain>(
    fd: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// getsockopt(2), for options that rustix does not have. What the kernel does not fill stays zero.
pub fn get_option<T: Plain>(fd: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<T> {
    // SAFETY: all-zero is a valid `Plain` value.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// An ioctl(2) that writes one `int`.
pub fn ioctl_int(fd: &impl AsRawFd, request: libc::Ioctl) -> io::Result<c_int> {
    let mut value: c_int = 0;
    // SAFETY: the requests used here write exactly one int through the pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(value)
}

/// Sets the name of this process; threads started later inherit it.
pub fn set_process_name(name: &CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// CLOCK_MONOTONIC in nanoseconds, as in events.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// kill(2).
/// Adds microseconds to the wall clock.
pub fn step_wall_clock(microseconds: i64) -> io::Result<()> {
    const SECOND: i64 = 1_000_000;
    // SAFETY: a struct of integers, for which all zero is a value.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_SETOFFSET;
    request.time.tv_sec = microseconds.div_euclid(SECOND);
    request.time.tv_usec = microseconds.rem_euclid(SECOND);
    // SAFETY: the kernel reads and writes the struct, and keeps no pointer.
    check(unsafe { libc::adjtimex(&raw mut request) }).map(drop)
}

pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("no process has this id")?;
    Ok(kill_process(pid, signal)?)
}

/// Raises RLIMIT_NOFILE to at least this many open files, and the hard limit too where that is
/// permitted. The hard limit is never lowered: on a hardened machine it could not be raised again.
pub fn allow_open_files(wanted: u64) -> io::Result<()> {
    // `None` means no limit.
    let raised = |limit: Option<u64>| limit.map(|limit| limit.max(wanted));
    let limit = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: raised(limit.current),
        maximum: raised(limit.maximum),
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Waits until the descriptor is readable; false after `patience`.
pub fn readable(fd: impl AsFd, patience: Duration) -> Result<bool> {
    let patience = Timespec::try_from(patience)?;
    Ok(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience))? > 0)
}

/// Passes a descriptor on (SCM_RIGHTS).
pub fn send_descriptor(over: impl AsFd, what: impl AsFd) -> io::Result<()> {
    let what = [what.as_fd()];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&what)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(over, &[IoSlice::new(&[0])], &mut rights, SendFlags::empty())?;
    Ok(())
}

/// Waits for a descriptor, and keeps it open. Makes only system calls and does not allocate.
pub fn receive_descriptor(over: impl AsFd) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let _ = recvmsg(over, &mut parts, &mut rights, RecvFlags::empty());
    // Dropping the buffer would close the descriptors in it.
    std::mem::forget(rights);
}

/// Opens this many more descriptors of a file. Makes only system calls and does not allocate.
pub fn duplicate(what: impl AsFd, times: u32) {
    for _ in 0..times {
        // Kept open until the process ends.
        let _ = dup(&what).map(OwnedFd::into_raw_fd);
    }
}

/// Clears FD_CLOEXEC, so that an executed program inherits the descriptor.
pub fn keep_open_on_exec(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}

/// Waits forever.
pub fn hold() -> ! {
    loop {
        pause();
    }
}

/// A forked process that only waits and holds everything it inherited.
pub struct Child(Pid);

impl Child {
    pub fn fork() -> io::Result<Self> {
        Self::run(|| ())
    }

    /// Like [`Child::fork`], but runs `action` first, which may only make system calls and must not
    /// allocate.
    pub fn run(action: impl FnOnce()) -> io::Result<Self> {
        Self::start(|| {
            action();
            hold()
        })
    }

    /// A child that runs `action` and then exits. If this process has other threads, `action` may
    /// only make system calls and must not allocate: a lock held by another thread at the fork is
    /// never released in the child.
    pub fn start(action: impl FnOnce() -> c_int) -> io::Result<Self> {
        // SAFETY: the child only runs `action`, to which the rule above applies, and exits without
        // running other code of the parent.
        let pid = check(unsafe { libc::fork() })?;
        let Some(pid) = Pid::from_raw(pid) else {
            let code = action();
            // SAFETY: ends the process and has no pointer arguments.
            unsafe { libc::_exit(code) };
        };
        Ok(Self(pid))
    }

    pub fn pid(&self) -> i32 {
        self.0.as_raw_pid()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// Whether QEMU emulates the CPUs, which is about ten times slower.
pub fn is_emulated() -> io::Result<bool> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    Ok(cpu.contains("QEMU TCG"))
}

/// One second, or this many seconds where CPUs are emulated.
pub fn second_or(emulated: u64) -> Duration {
    let is_emulated = is_emulated().unwrap_or(false);
    Duration::from_secs(if is_emulated { emulated } else { 1 })
}
