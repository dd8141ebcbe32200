//! Network namespaces: each scenario creates its own, with its own sysctls and loopback.

use std::ffi::c_int;
use std::fmt::Display;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::kit::rtnetlink::{Message, RTM_NEWLINK, index_of, interface};

/// `include/uapi/linux/if.h`.
const IFF_UP: u32 = 1;

/// A network namespace, kept alive by an open file.
pub struct Namespace {
    file: File,
    /// Inode number, which identifies the namespace in events.
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
        // SAFETY: without CLONE_FILES no thread loses a descriptor; only this thread changes namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("unshare(CLONE_NEWNET)")?;
        set_link_up("lo", true)?;
        Self::current()
    }

    /// Moves the calling thread into this namespace. Its existing sockets stay in their namespace.
    pub fn enter(&self) -> Result<()> {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.file.as_fd(), network).context("setns")
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
    let flags = if up { IFF_UP } else { 0 };
    let header = interface(index_of(name)?, flags, IFF_UP);
    Message::new(RTM_NEWLINK, 0, &header)
        .send()
        .with_context(|| format!("switching {name}"))
}
