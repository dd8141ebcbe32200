//! The kernel's own report of the socket under test, by its ordinary interfaces. This file does not use BPF.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    time::Instant,
};

use anyhow::{Context, Result};
use rustix::net::sockopt;

use crate::machine::{
    files,
    syscall::{self, TcpInfo},
};

/// The state of the socket before the programs read it.
pub struct Truth {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub cookie: u64,
    pub netns: u32,
    pub inode: u64,
    /// `None` where cgroup2 is not mounted, or not from its root.
    pub cgroup: Option<u64>,
    /// `None` where /proc/sys does not show them.
    pub sysctls: Option<SysctlValues>,
    /// Flags of the calling thread; `None` where /proc does not show them.
    pub task_flags: Option<u32>,
    /// `None` where the kernel has no such option (before 6.15).
    pub rto_max_ms: Option<u32>,
    pub info: TcpInfo,
    /// A moment before TCP_INFO was read into `info`.
    pub asked: Instant,
    /// A moment before the first byte was sent on the connection.
    pub opened: Instant,
    /// A moment before the data that closed the window was sent; `None` = the window is open, and all data is
    /// acknowledged.
    pub closing: Option<Instant>,
}

/// The state of the socket after the programs read it.
pub struct After {
    pub info: TcpInfo,
    pub task_flags: Option<u32>,
}

impl Truth {
    /// Reads a connected socket in the calling thread's network namespace that has nothing in flight.
    pub fn of(socket: &TcpStream, netns: u32, opened: Instant) -> Result<Self> {
        let fd = socket.as_fd();
        let inode = fs::metadata(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()));
        let asked = Instant::now();
        Ok(Self {
            local: socket.local_addr()?,
            peer: socket.peer_addr()?,
            cookie: sockopt::socket_cookie(fd).context("SO_COOKIE")?,
            netns,
            inode: inode.context("/proc/thread-self/fd")?.ino(),
            cgroup: own_cgroup(),
            sysctls: SysctlValues::read(),
            task_flags: task_flags(),
            rto_max_ms: syscall::tcp_rto_max(fd).ok(),
            info: syscall::tcp_info(fd).context("TCP_INFO")?,
            asked,
            opened,
            closing: None,
        })
    }

    /// Reads TCP_INFO again, after the data sent since `closing` has closed the window.
    pub fn ask_again(&mut self, fd: BorrowedFd<'_>, closing: Instant) -> Result<()> {
        self.asked = Instant::now();
        self.info = syscall::tcp_info(fd).context("TCP_INFO")?;
        self.closing = Some(closing);
        Ok(())
    }

    /// Whether no segment was sent on the connection between this state and `after`, zero-window probes
    /// included.
    pub fn is_quiet(&self, after: &After) -> bool {
        let of = |info: &TcpInfo| {
            (
                info.tcpi_segs_out,
                info.tcpi_backoff,
                info.tcpi_probes,
                info.tcpi_unacked,
            )
        };
        of(&self.info) == of(&after.info)
    }
}

impl After {
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        Ok(Self {
            info: syscall::tcp_info(fd).context("TCP_INFO")?,
            task_flags: task_flags(),
        })
    }
}

/// Field 9 of proc_pid_stat(5), of the calling thread.
fn task_flags() -> Option<u32> {
    let stat = files::read_kernel("/proc/thread-self/stat").ok()?;
    // The name may contain spaces and parentheses; the field after it is number 3.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(6)?.parse().ok()
}

/// `net.ipv4.tcp_*` of a network namespace, as /proc/sys shows them.
pub struct SysctlValues {
    pub time: u32,
    pub interval: u32,
    pub probes: u32,
    pub retries2: u32,
    pub syn_retries: u32,
    pub orphan_retries: u32,
}

impl SysctlValues {
    /// Those of the calling thread's network namespace.
    fn read() -> Option<Self> {
        let read = |name: &str| {
            let text = files::read_kernel(&format!("/proc/sys/net/ipv4/tcp_{name}")).ok()?;
            text.trim().parse().ok()
        };
        Some(Self {
            time: read("keepalive_time")?,
            interval: read("keepalive_intvl")?,
            probes: read("keepalive_probes")?,
            retries2: read("retries2")?,
            syn_retries: read("syn_retries")?,
            orphan_retries: read("orphan_retries")?,
        })
    }
}

/// Id of the calling thread's cgroup. Its path resolves only below a mount of the root of cgroup2.
fn own_cgroup() -> Option<u64> {
    let mounts = files::read_kernel("/proc/self/mountinfo").ok()?;
    let root = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then_some(at)
    })?;
    let groups = files::read_kernel("/proc/thread-self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(fs::metadata(format!("{root}{path}")).ok()?.ino())
}
