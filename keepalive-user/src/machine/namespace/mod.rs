//! # Network namespaces
//!
//! Finds network namespaces, and runs code inside one.

mod proc;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use anyhow::{Context, Result};
use linux_raw_sys::general::{CLONE_NEWNET, NSFS_MAGIC};
use rustix::{
    fs::fstatfs,
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

pub use self::proc::{may_have_tcp, sysctls};
use crate::{
    core::event::{Incomplete, IncompletePart, Sysctls},
    machine::{privileges, syscall},
};

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

    /// The namespace that a file refers to: `/proc/PID/ns/net`, or a bind mount of it.
    pub fn open(path: &Path) -> Result<Self> {
        let namespace = Self::try_open(path).with_context(|| path.display().to_string())?;
        namespace.with_context(|| format!("{} is not a network namespace", path.display()))
    }

    /// As [`Namespace::open`]; `None` if the file is not a network namespace.
    fn try_open(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        if !is_network_namespace(&file) {
            return Ok(None);
        }
        let inode = u32::try_from(file.metadata()?.ino());
        Ok(inode.ok().map(|inode| Self { file, inode }))
    }

    /// The namespace that the user gives: a path, a name of `ip netns`, or an inode number.
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

    /// The namespace with this inode number.
    fn of(inode: u32) -> Result<Self> {
        let (mut all, missing) = Self::all()?;
        all.remove(&inode).with_context(|| {
            let hint = if missing.is_empty() {
                ""
            } else {
                privileges::hint()
            };
            format!(
                "no process is in network namespace {inode}, and `ip netns` has no name for it{hint}"
            )
        })
    }

    /// All namespaces of threads, and all that `ip netns` has a name for, by inode number; and those that
    /// could not be read.
    pub fn all() -> Result<(BTreeMap<u32, Self>, Vec<Incomplete>)> {
        raise_file_limit();
        let mut found = BTreeMap::new();
        let mut missed = Missed::default();
        let current = Self::current()?;
        found.insert(current.inode, current);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        // A thread may be in another namespace than its process.
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
                    if known {
                        continue;
                    }
                    match Self::try_open(&path) {
                        Ok(namespace) => {
                            found.extend(namespace.map(|namespace| (namespace.inode, namespace)));
                        }
                        Err(error) => missed.note(error),
                    }
                }
                Err(error) => missed.note(error),
            }
        }
        Ok((found, missed.incomplete()))
    }

    /// Runs `work` in this namespace: on a new thread, unless the calling thread is in it already.
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

    /// Moves the calling thread into this namespace.
    fn enter(&self) -> Result<()> {
        let kind = Some(LinkNameSpaceType::Network);
        let entered = move_into_link_name_space(self.file.as_fd(), kind).map_err(io::Error::from);
        entered.with_context(|| {
            format!(
                "cannot enter network namespace {} (needs CAP_SYS_ADMIN: run as root)",
                self.inode
            )
        })
    }
}

/// Each namespace needs an open file: raises the soft limit to the hard one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If this fails the limit stays; namespaces that cannot be opened are reported.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Files whose namespace could not be determined.
#[derive(Default)]
struct Missed {
    denied: u64,
    unopened: u64,
    error: Option<io::Error>,
}

impl Missed {
    fn note(&mut self, error: io::Error) {
        match Errno::from_io_error(&error) {
            // The process ended, or the name was removed.
            Some(Errno::NOENT | Errno::SRCH) => {}
            Some(Errno::ACCESS | Errno::PERM) => self.denied += 1,
            _ => {
                self.unopened += 1;
                self.error = Some(error);
            }
        }
    }

    fn incomplete(self) -> Vec<Incomplete> {
        let denied = (self.denied > 0).then(|| Incomplete {
            what: IncompletePart::Namespace,
            count: self.denied,
            reason: format!(
                "the network namespaces of this many threads are not readable{}",
                privileges::hint()
            ),
        });
        let unopened = self.error.map(|error| Incomplete {
            what: IncompletePart::Namespace,
            count: self.unopened,
            reason: format!("cannot be opened: {error}"),
        });
        denied.into_iter().chain(unopened).collect()
    }
}

fn is_network_namespace(file: &File) -> bool {
    fstatfs(file).is_ok_and(|statfs| u32::try_from(statfs.f_type) == Ok(NSFS_MAGIC))
        && syscall::namespace_kind(file.as_fd()).is_ok_and(|kind| kind == CLONE_NEWNET)
}

/// The network namespace of process 1, and its sysctls; `None` if they may not be read.
pub fn host() -> Option<(u32, Sysctls)> {
    let host = Namespace::open(Path::new("/proc/1/ns/net")).ok()?;
    let sysctls = host.within(|| Ok(sysctls())).ok()??;
    Some((host.inode, sysctls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_namespaces_are_opened() {
        let own = Namespace::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(own.inode, Namespace::current().unwrap().inode);
        for other in ["/proc/self/ns/uts", "/proc/self/comm", "/dev/null"] {
            let error = Namespace::open(Path::new(other)).err().unwrap();
            assert!(
                error.to_string().contains("not a network namespace"),
                "{error}"
            );
        }
        assert!(Namespace::open(Path::new("/proc/self/ns/none")).is_err());
    }

    #[test]
    fn each_reason_is_reported_separately() {
        let mut missed = Missed::default();
        for errno in [Errno::NOENT, Errno::ACCESS, Errno::MFILE, Errno::SRCH] {
            missed.note(errno.into());
        }
        let [denied, unopened] = &missed.incomplete()[..] else {
            panic!("two reasons");
        };
        assert_eq!((denied.count, unopened.count), (1, 1));
        assert!(
            unopened.reason.contains("Too many open files"),
            "{}",
            unopened.reason
        );
        assert!(Missed::default().incomplete().is_empty());
    }
}
