//! Safe faces of the few system calls the suite needs: socket options, ioctls, process names.
//!
//! Nothing here knows about keepalive.

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Turns the C convention (-1 and errno) into a `Result`.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A new socket that no child process inherits.
pub fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; the result is checked.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: two integers.
unsafe impl Plain for libc::linger {}
// SAFETY: integers and bit-fields the kernel fills.
unsafe impl Plain for libc::tcp_info {}
// SAFETY: a length and a pointer, both only read by the kernel.
unsafe impl Plain for libc::sock_fprog {}

/// setsockopt(2).
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

/// getsockopt(2). What the kernel does not fill stays zero.
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

/// Name of this process and, being inherited, of every thread started after.
pub fn set_process_name(name: &CStr) -> io::Result<()> {
    Ok(rustix::thread::set_name(name)?)
}

/// CLOCK_MONOTONIC, as events have it.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a local; this clock is on every kernel.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// kill(2).
pub fn signal(pid: u32, signal: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) })?;
    Ok(())
}

/// Allows so many open files, beyond the hard limit too where we may raise that. The hard limit is never
/// lowered: a hardened machine does not let us raise it again.
pub fn allow_open_files(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a local.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_cur.max(wanted);
    limit.rlim_max = limit.rlim_max.max(wanted);
    // SAFETY: the pointer describes `limit`, which outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(())
}

/// Waits until the descriptor is readable; false after `patience`.
pub fn readable(fd: RawFd, patience: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, which outlives the call.
    let ready = check(unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as c_int) })?;
    Ok(ready > 0)
}

/// One descriptor on its way to another process: `struct cmsghdr`, and what comes with it.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: c_int,
    padding: c_int,
}

/// Calls `pass` with a message of one byte and one descriptor.
fn with_rights(fd: c_int, pass: impl FnOnce(&mut libc::msghdr) -> isize) -> io::Result<()> {
    let mut byte = 0_u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut rights = Rights {
        // SAFETY: integers.
        header: unsafe { std::mem::zeroed() },
        fd,
        padding: 0,
    };
    rights.header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<c_int>();
    rights.header.cmsg_level = libc::SOL_SOCKET;
    rights.header.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: integers and null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = size_of::<Rights>();
    if pass(&mut message) < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Passes a descriptor on (SCM_RIGHTS).
pub fn send_descriptor(over: &impl AsRawFd, what: &impl AsRawFd) -> io::Result<()> {
    with_rights(what.as_raw_fd(), |message| {
        // SAFETY: all that the message points to outlives the call.
        unsafe { libc::sendmsg(over.as_raw_fd(), message, 0) }
    })
}

/// Waits for a descriptor, and keeps it.
pub fn receive_descriptor(over: &impl AsRawFd) {
    let _ = with_rights(-1, |message| {
        // SAFETY: all that the message points to outlives the call.
        unsafe { libc::recvmsg(over.as_raw_fd(), message, 0) }
    });
}

/// Holds so many more descriptors of a file.
pub fn duplicate(what: &impl AsRawFd, times: c_int) {
    for _ in 0..times {
        // SAFETY: takes no pointers.
        unsafe { libc::dup(what.as_raw_fd()) };
    }
}

/// Lets a program that is executed have the descriptor.
pub fn keep_open_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
    Ok(())
}

/// A process of ours that only waits, with all that it inherited.
pub struct Child(pub libc::pid_t);

impl Child {
    pub fn fork() -> io::Result<Self> {
        Self::run(|| ())
    }

    /// As [`Child::fork`]; what it does first must be system calls alone, and allocate nothing.
    pub fn run(action: impl FnOnce()) -> io::Result<Self> {
        // SAFETY: the child makes one system call after the other and allocates nothing.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            action();
            loop {
                // SAFETY: takes no pointers.
                unsafe { libc::pause() };
            }
        }
        Ok(Self(pid))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: a child of ours that nobody else waits for; a null status is allowed.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Whether the processors are QEMU's emulation, which is some ten times slower.
pub fn is_emulated() -> io::Result<bool> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    Ok(cpu.contains("QEMU TCG"))
}

/// A second, or so many where processors are emulated.
pub fn second_or(emulated: u64) -> Duration {
    let is_emulated = is_emulated().unwrap_or(false);
    Duration::from_secs(if is_emulated { emulated } else { 1 })
}
