//! # Network namespaces
//!
//! Finding them, and doing something inside one.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::Path,
};

use anyhow::{Context, Result};

use crate::{event::Sysctls, privileges};

/// A network namespace, kept alive by an open file.
pub struct Namespace {
    file: File,
    /// Inode number: its name in events.
    pub inode: u32,
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace a file stands for: `/proc/PID/ns/net`, or a mount of one.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let inode = file.metadata()?.ino();
        let inode = u32::try_from(inode)
            .with_context(|| format!("{} is no network namespace", path.display()))?;
        Ok(Self { file, inode })
    }

    /// The one that a user names: a path, a name of `ip netns`, or an inode number.
    pub fn named(text: &str) -> Result<Self> {
        if let Ok(inode) = text.parse() {
            return Self::of(inode);
        }
        let path = if text.contains('/') {
            text.to_owned()
        } else {
            format!("/run/netns/{text}")
        };
        Self::open(Path::new(&path)).with_context(|| {
            format!(
                "no network namespace {text:?} (give a path, a name of `ip netns list`, or an \
                 inode number)"
            )
        })
    }

    /// The one with this inode number.
    fn of(inode: u32) -> Result<Self> {
        let (mut all, denied) = Self::all()?;
        all.remove(&inode).with_context(|| {
            let hint = if denied > 0 { privileges::hint() } else { "" };
            format!(
                "no process is in network namespace {inode}, and `ip netns` does not know it{hint}"
            )
        })
    }

    /// All that a thread is in or that `ip netns` has a name for, by inode number, and how many
    /// processes could not be asked.
    pub fn all() -> Result<(BTreeMap<u32, Self>, u64)> {
        let mut found = BTreeMap::new();
        let mut denied = 0;
        let current = Self::current()?;
        found.insert(current.inode, current);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        // Threads are mostly where their process is, but need not be.
        let threads = processes
            .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
            .flat_map(|entry| {
                fs::read_dir(entry.path().join("task"))
                    .into_iter()
                    .flatten()
            })
            .flatten()
            .map(|entry| entry.path().join("ns/net"));
        let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        for path in threads.chain(named.map(|entry| entry.path())) {
            match fs::metadata(&path) {
                Ok(metadata) => {
                    let known =
                        u32::try_from(metadata.ino()).is_ok_and(|inode| found.contains_key(&inode));
                    // Gone meanwhile, or a file that is none.
                    if !known && let Ok(namespace) = Self::open(&path) {
                        found.insert(namespace.inode, namespace);
                    }
                }
                Err(error) => {
                    denied += u64::from(error.kind() == std::io::ErrorKind::PermissionDenied);
                }
            }
        }
        Ok((found, denied))
    }

    /// Does something in this namespace, on a thread of its own unless we are in it already.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if Self::current()?.inode == self.inode {
            return work();
        }
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread there.
    fn enter(&self) -> Result<()> {
        // SAFETY: takes no pointers; changes this thread only.
        let result = unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) };
        if result == 0 {
            return Ok(());
        }
        Err(std::io::Error::last_os_error()).with_context(|| {
            format!(
                "cannot enter network namespace {} (takes CAP_SYS_ADMIN: run as root)",
                self.inode
            )
        })
    }
}

/// The network namespace of process 1, and its defaults; `None` if they may not be seen.
pub fn host() -> Option<(u32, Sysctls)> {
    let host = Namespace::open(Path::new("/proc/1/ns/net")).ok()?;
    let sysctls = host.within(|| Ok(sysctls())).ok()??;
    Some((host.inode, sysctls))
}

/// The keepalive sysctls of the calling thread's namespace; `None` where /proc/sys does not show
/// them.
pub fn sysctls() -> Option<Sysctls> {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some(Sysctls {
        time_ms: read("tcp_keepalive_time")? * 1000,
        interval_ms: read("tcp_keepalive_intvl")? * 1000,
        probes: read("tcp_keepalive_probes")?.try_into().ok()?,
        retries2: read("tcp_retries2")?.try_into().ok()?,
    })
}
