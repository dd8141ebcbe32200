//! # Attribution
//!
//! Whose socket is it? The process by the socket's inode number, the cgroup by its id, the
//! container by the cgroup's path. Looked up in /proc and cgroupfs in whole passes, never per
//! socket, and remembered. What is not found is `null`, never a guess: the task a timer
//! interrupted is nobody.

use std::{
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use rustc_hash::FxHashMap;

use crate::{
    descriptors::{self, Descriptor},
    event::{Cgroup, Process},
};

/// Passes may take this share of our time in the long run …
const SHARE: u32 = 20;
/// … and this much at once, when many new sockets come together.
const CREDIT: Duration = Duration::from_secs(1);
/// What a pass did not find is not looked for again for this long.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Entries remembered before a pass starts from nothing; sockets come and go.
const REMEMBERED: usize = 1 << 18;

/// Finds and remembers owners.
pub struct Attribution {
    processes: Passes<Process>,
    cgroups: Passes<String>,
    cgroup_root: Option<PathBuf>,
    /// Whether the process ids the programs report are those of /proc.
    same_pids: bool,
}

impl Attribution {
    pub fn new(same_pids: bool) -> Self {
        Self {
            processes: Passes::default(),
            cgroups: Passes::default(),
            cgroup_root: cgroup2_root(),
            same_pids,
        }
    }

    /// The owner of the socket with this inode number.
    pub fn process(&mut self, inode: u64) -> Option<Process> {
        if inode == 0 {
            return None;
        }
        self.processes.get(inode, pass_over_proc)
    }

    /// Remembers the task that acted on a socket of its own.
    pub fn learn(&mut self, inode: u64, pid: u32, comm: &[u8; 16]) {
        if inode == 0 || !self.same_pids {
            return;
        }
        // The acting thread may have a name of its own; the process's is in /proc.
        let comm = fs::read(format!("/proc/{pid}/comm")).map_or_else(
            |_| {
                comm.split(|&byte| byte == 0)
                    .next()
                    .unwrap_or_default()
                    .to_vec()
            },
            |comm| comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec(),
        );
        let comm = String::from_utf8_lossy(&comm).into_owned();
        self.processes.known.insert(inode, Process { pid, comm });
    }

    /// Finds the owners of all sockets there are, before anybody asks: from `walk` if its process
    /// ids are those of /proc, else by a pass over /proc.
    pub fn prime(&mut self, walk: impl FnOnce(&mut dyn FnMut(Descriptor)) -> Result<()>) {
        let known = &mut self.processes.known;
        let mut found = Found::new(known);
        if !self.same_pids || walk(&mut |descriptor| found.add(descriptor)).is_err() {
            pass_over_proc(known);
        }
    }

    /// The cgroup with this id, its path below the cgroup2 mount, and the container it is of.
    pub fn cgroup(&mut self, id: u64) -> (Option<Cgroup>, Option<String>) {
        if id == 0 {
            return (None, None);
        }
        let root = self.cgroup_root.as_deref();
        let path =
            root.and_then(|root| self.cgroups.get(id, |found| pass_over_cgroups(root, found)));
        let container = path.as_deref().and_then(container_id);
        (Some(Cgroup { id, path }), container)
    }
}

/// Answers from memory, or from a new pass while there is credit for one.
struct Passes<T> {
    known: FxHashMap<u64, T>,
    /// When what was not found may be looked for again.
    given_up: FxHashMap<u64, Instant>,
    /// Time that passes may take now, as of `counted`.
    credit: Duration,
    counted: Option<Instant>,
}

impl<T> Default for Passes<T> {
    fn default() -> Self {
        Self {
            known: FxHashMap::default(),
            given_up: FxHashMap::default(),
            credit: CREDIT,
            counted: None,
        }
    }
}

impl<T: Clone> Passes<T> {
    fn get(&mut self, key: u64, pass: impl FnOnce(&mut FxHashMap<u64, T>)) -> Option<T> {
        if let Some(value) = self.known.get(&key) {
            return Some(value.clone());
        }
        let start = Instant::now();
        let earned = self
            .counted
            .map_or(CREDIT, |counted| start.duration_since(counted) / SHARE);
        self.credit = CREDIT.min(self.credit + earned);
        self.counted = Some(start);
        let given_up = self.given_up.get(&key).is_some_and(|until| start < *until);
        if given_up || self.credit.is_zero() {
            return None;
        }
        if self.known.len() + self.given_up.len() > REMEMBERED {
            self.known.clear();
            self.given_up.clear();
        }
        pass(&mut self.known);
        self.credit = self.credit.saturating_sub(start.elapsed());
        let found = self.known.get(&key).cloned();
        match found {
            Some(_) => self.given_up.remove(&key),
            None => self.given_up.insert(key, start + GIVE_UP),
        };
        found
    }
}

/// All sockets in all file descriptor tables.
fn pass_over_proc(known: &mut FxHashMap<u64, Process>) {
    let mut found = Found::new(known);
    descriptors::pass(|descriptor| found.add(descriptor));
}

/// The owners of sockets as a pass finds them, process by process.
struct Found<'a> {
    known: &'a mut FxHashMap<u64, Process>,
    last: Process,
}

impl<'a> Found<'a> {
    fn new(known: &'a mut FxHashMap<u64, Process>) -> Self {
        let (pid, comm) = (0, String::new());
        Self {
            known,
            last: Process { pid, comm },
        }
    }

    /// A known owner stays the owner: it may be one that acted on the socket.
    fn add(&mut self, descriptor: Descriptor) {
        self.known.entry(descriptor.inode).or_insert_with(|| {
            if self.last.pid != descriptor.pid {
                self.last = Process {
                    pid: descriptor.pid,
                    comm: comm_of(descriptor.pid),
                };
            }
            self.last.clone()
        });
    }
}

/// The name of a process; empty if it is gone.
pub fn comm_of(pid: u32) -> String {
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned()
}

/// All directories below the mount, by inode number.
fn pass_over_cgroups(root: &Path, found: &mut FxHashMap<u64, String>) {
    found.clear();
    if let Ok(metadata) = fs::metadata(root) {
        found.insert(metadata.ino(), "/".to_owned());
    }
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if let Ok(below) = path.strip_prefix(root) {
                found.insert(entry.ino(), format!("/{}", below.to_string_lossy()));
            }
            pending.push(path);
        }
    }
}

/// Where cgroup2 is mounted, if it is.
pub fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The container's id in a cgroup path: 64 hexadecimal digits, as every runtime uses
/// (`docker-ID.scope`, `/docker/ID`, `cri-containerd-ID.scope`, `libpod-ID.scope`, `crio-ID.scope`).
fn container_id(path: &str) -> Option<String> {
    path.rsplit(['/', '-', '.', ':'])
        .find(|part| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_of_every_runtime() {
        let id = "0123456789abcdef".repeat(4);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/machine.slice/libpod-{id}.scope/container"),
        ] {
            assert_eq!(container_id(&path), Some(id.clone()), "{path}");
        }
        assert_eq!(container_id("/system.slice/ssh.service"), None);
        assert_eq!(container_id(&format!("/docker/{}", "g".repeat(64))), None);
    }

    #[test]
    fn finds_the_owner_of_a_socket() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let inode = fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino();
        let process = Attribution::new(true).process(inode).unwrap();
        assert_eq!(process.pid, std::process::id());
    }

    #[test]
    fn an_unknown_socket_has_no_owner() {
        assert_eq!(Attribution::new(true).process(u64::MAX), None);
        assert_eq!(Attribution::new(true).process(0), None);
    }
}
