//! Network namespaces: each scenario makes its own, with its own sysctls and its own loopback.

use std::ffi::c_int;
use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

use crate::kit::sys;

/// A network namespace, kept alive by an open file.
pub struct Namespace {
    file: File,
    /// Inode number: how events name the namespace.
    pub inode: u64,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).context(path)?;
        let inode = file.metadata().context(path)?.ino();
        Ok(Self { file, inode })
    }

    /// Moves the calling thread into a new namespace with its loopback up.
    pub fn create() -> Result<Self> {
        // SAFETY: takes no pointers; only this thread changes namespace.
        sys::check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
            .context("unshare(CLONE_NEWNET)")?;
        set_link_up("lo", true)?;
        Self::current()
    }

    /// Moves the calling thread into this namespace. Sockets it already has stay where they are.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: takes no pointers; the descriptor is open.
        sys::check(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) })
            .context("setns")?;
        Ok(())
    }

    pub fn as_raw_fd(&self) -> c_int {
        self.file.as_raw_fd()
    }
}

/// Sets `net.ipv4.NAME` in the calling thread's namespace.
pub fn sysctl(name: &str, value: impl Display) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    fs::write(&path, value.to_string()).with_context(|| format!("{path} = {value}"))
}

/// Switches an interface of the calling thread's namespace on or off.
pub fn set_link_up(name: &str, up: bool) -> Result<()> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFFLAGS fills the flags of the ifreq it is given.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })
        .with_context(|| format!("flags of {name}"))?;
    // SAFETY: the kernel has just filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let bit = libc::IFF_UP as i16;
    request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
    // SAFETY: SIOCSIFFLAGS reads the flags of the ifreq it is given.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
        .with_context(|| format!("switching {name}"))?;
    Ok(())
}

/// An `ifreq` that names an interface.
pub fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
