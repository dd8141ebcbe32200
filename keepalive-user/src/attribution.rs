//! # Attribution
//!
//! Whose socket is it? The process by the socket's inode number, the cgroup by its id, the
//! container by the cgroup's path. Looked up in /proc and cgroupfs in whole passes, never per
//! socket, and remembered. What is not found is `null`, never a guess: the task a timer
//! interrupted is nobody.
//!
//! Of a replayed trace nothing is looked up: what the live one found comes with the recording.

use std::{
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
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
/// How long a process is believed to be the one it was.
const BELIEVED: Duration = Duration::from_secs(1);

/// Where a socket was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub cgroup: Arc<Cgroup>,
    pub container_id: Option<Arc<str>>,
}

/// Finds and remembers owners.
pub struct Attribution {
    processes: Passes<Arc<Process>>,
    cgroups: Passes<Place>,
    alive: FxHashMap<u32, Life>,
    cgroup_root: Option<PathBuf>,
    /// Whether the process ids the programs report are those of /proc.
    same_pids: bool,
    /// Whether to look on this machine for what is not known.
    live: bool,
    /// The process that was told last.
    last: Option<Arc<Process>>,
}

impl Attribution {
    pub fn new(same_pids: bool) -> Self {
        Self {
            processes: Passes::default(),
            cgroups: Passes::default(),
            alive: FxHashMap::default(),
            cgroup_root: cgroup2_root(),
            same_pids,
            live: true,
            last: None,
        }
    }

    /// One that is told everything and looks for nothing.
    pub fn told() -> Self {
        Self {
            cgroup_root: None,
            live: false,
            ..Self::new(false)
        }
    }

    /// Looks for whatever is not known of a socket, if it is time for a pass.
    pub fn look_for(&mut self, inode: u64, cgroup: u64) {
        if !self.live {
            return;
        }
        if inode != 0 {
            self.forget_the_dead(inode);
            self.processes.look_for(inode, pass_over_proc);
        }
        self.look_for_cgroup(cgroup);
    }

    fn look_for_cgroup(&mut self, id: u64) {
        if let Some(root) = self.cgroup_root.as_deref().filter(|_| id != 0) {
            self.cgroups
                .look_for(id, |found| pass_over_cgroups(root, found));
        }
    }

    /// The owner of the socket with this inode number, as far as it is known.
    pub fn process(&self, inode: u64) -> Option<&Arc<Process>> {
        self.processes.known.get(&inode)
    }

    /// The place with this cgroup id, as far as it is known.
    pub fn place(&self, id: u64) -> Option<Place> {
        let unknown = || Place {
            cgroup: Arc::new(Cgroup { id, path: None }),
            container_id: None,
        };
        (id != 0).then(|| self.cgroups.known.get(&id).cloned().unwrap_or_else(unknown))
    }

    /// The cgroup with this id and the container it is of, looked for.
    pub fn cgroup(&mut self, id: u64) -> (Option<Arc<Cgroup>>, Option<Arc<str>>) {
        self.look_for_cgroup(id);
        self.place(id).map_or((None, None), |place| {
            (Some(place.cgroup), place.container_id)
        })
    }

    /// Remembers the task that acted on a socket of its own.
    pub fn learn(&mut self, inode: u64, pid: u32, comm: &[u8; 16]) {
        if inode == 0 || !self.same_pids {
            return;
        }
        let known = self.process(inode);
        if known.is_some_and(|known| known.pid == pid && self.is_believed(pid)) {
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
        self.processes.make_room();
        self.tell_process(inode, Some(Process { pid, comm }));
    }

    /// What the recording says: whose the socket is from now on.
    pub fn tell_process(&mut self, inode: u64, process: Option<Process>) {
        let Some(process) = process else {
            self.processes.known.remove(&inode);
            return;
        };
        // Many sockets of one process share its name.
        if self.last.as_deref() != Some(&process) {
            self.last = Some(Arc::new(process));
        }
        if let Some(process) = &self.last {
            self.processes.known.insert(inode, Arc::clone(process));
        }
    }

    /// What the recording says: the path of a cgroup from now on.
    pub fn tell_cgroup(&mut self, id: u64, path: Option<&str>) {
        match path {
            Some(path) => self.cgroups.known.insert(id, place(id, path)),
            None => self.cgroups.known.remove(&id),
        };
    }

    /// The socket has ended: its inode number may come again.
    pub fn forget(&mut self, inode: u64) {
        self.processes.known.remove(&inode);
        self.processes.given_up.remove(&inode);
    }

    /// Finds the owners of all sockets there are, before anybody asks: from `walk` if its process
    /// ids are those of /proc, else by a pass over /proc.
    pub fn prime(&mut self, walk: impl FnOnce(&mut dyn FnMut(Descriptor)) -> Result<()>) {
        let known = &mut self.processes.known;
        let mut found = Found::new(known);
        if !self.same_pids
            || walk(&mut |descriptor| found.add(descriptor, || comm_of(descriptor.pid))).is_err()
        {
            pass_over_proc(known);
        }
    }

    /// A process id is given again: one that started later is another process.
    fn forget_the_dead(&mut self, inode: u64) {
        let Some(pid) = self.process(inode).map(|process| process.pid) else {
            return;
        };
        if self.is_believed(pid) {
            return;
        }
        let start = start_of(pid);
        if self.alive.len() > REMEMBERED {
            self.alive.clear();
        }
        let life = self.alive.entry(pid).or_insert(Life {
            start,
            seen: Instant::now(),
        });
        life.seen = Instant::now();
        if start.is_none() || life.start != start {
            life.start = start;
            self.processes.known.retain(|_, process| process.pid != pid);
        }
    }

    fn is_believed(&self, pid: u32) -> bool {
        self.alive
            .get(&pid)
            .is_some_and(|life| life.seen.elapsed() < BELIEVED)
    }
}

/// When a process was last seen to be there.
struct Life {
    /// Start time, clock ticks since boot; `None` if it was not there.
    start: Option<u64>,
    seen: Instant,
}

/// The start time of a process (`/proc/PID/stat`, field 22), clock ticks since boot.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, and ends at the last parenthesis.
    let after = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[after + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
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

impl<T> Passes<T> {
    fn look_for(&mut self, key: u64, pass: impl FnOnce(&mut FxHashMap<u64, T>)) {
        if self.known.contains_key(&key) {
            return;
        }
        let start = Instant::now();
        let earned = self
            .counted
            .map_or(CREDIT, |counted| start.duration_since(counted) / SHARE);
        self.credit = CREDIT.min(self.credit + earned);
        self.counted = Some(start);
        let given_up = self.given_up.get(&key).is_some_and(|until| start < *until);
        if given_up || self.credit.is_zero() {
            return;
        }
        self.make_room();
        pass(&mut self.known);
        self.credit = self.credit.saturating_sub(start.elapsed());
        if self.known.contains_key(&key) {
            self.given_up.remove(&key);
        } else {
            self.given_up.insert(key, start + GIVE_UP);
        }
    }

    fn make_room(&mut self) {
        if self.known.len() + self.given_up.len() > REMEMBERED {
            self.known.clear();
            self.given_up.clear();
        }
    }
}

/// All sockets in all file descriptor tables.
fn pass_over_proc(known: &mut FxHashMap<u64, Arc<Process>>) {
    let mut found = Found::new(known);
    descriptors::pass(|holder, descriptor| found.add(descriptor, || holder.comm()));
}

/// The owners of sockets as a pass finds them, process by process.
struct Found<'a> {
    known: &'a mut FxHashMap<u64, Arc<Process>>,
    last: Arc<Process>,
}

impl<'a> Found<'a> {
    fn new(known: &'a mut FxHashMap<u64, Arc<Process>>) -> Self {
        let (pid, comm) = (0, String::new());
        Self {
            known,
            last: Arc::new(Process { pid, comm }),
        }
    }

    /// A known owner stays the owner: it may be one that acted on the socket.
    fn add(&mut self, descriptor: Descriptor, comm: impl FnOnce() -> String) {
        self.known.entry(descriptor.inode).or_insert_with(|| {
            let pid = descriptor.pid;
            if self.last.pid != pid {
                let comm = comm();
                self.last = Arc::new(Process { pid, comm });
            }
            Arc::clone(&self.last)
        });
    }
}

/// The name of a process; empty if it is gone.
pub fn comm_of(pid: u32) -> String {
    descriptors::comm_from(&fs::read(format!("/proc/{pid}/comm")).unwrap_or_default())
}

/// All directories below the mount, by inode number.
fn pass_over_cgroups(root: &Path, found: &mut FxHashMap<u64, Place>) {
    found.clear();
    if let Ok(metadata) = fs::metadata(root) {
        found.insert(metadata.ino(), place(metadata.ino(), "/"));
    }
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if let Ok(below) = path.strip_prefix(root) {
                let path = format!("/{}", below.to_string_lossy());
                found.insert(entry.ino(), place(entry.ino(), &path));
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

fn place(id: u64, path: &str) -> Place {
    let cgroup = Cgroup {
        id,
        path: Some(path.to_owned()),
    };
    Place {
        cgroup: Arc::new(cgroup),
        container_id: container_id(path).map(Into::into),
    }
}

/// The container's id in a cgroup path: 64 hexadecimal digits, as every runtime uses
/// (`docker-ID.scope`, `/docker/ID`, `cri-containerd-ID.scope`, `libpod-ID.scope`, `crio-ID.scope`).
fn container_id(path: &str) -> Option<&str> {
    path.rsplit(['/', '-', '.', ':'])
        .find(|part| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
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
            assert_eq!(container_id(&path), Some(&*id), "{path}");
        }
        assert_eq!(container_id("/system.slice/ssh.service"), None);
        assert_eq!(container_id(&format!("/docker/{}", "g".repeat(64))), None);
    }

    #[test]
    fn finds_the_owner_of_a_socket() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        let inode = fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino();
        let mut attribution = Attribution::new(true);
        assert_eq!(attribution.process(inode), None);
        attribution.look_for(inode, 0);
        assert_eq!(attribution.process(inode).unwrap().pid, std::process::id());
    }

    #[test]
    fn an_unknown_socket_has_no_owner() {
        let mut attribution = Attribution::new(true);
        for inode in [0, u64::MAX] {
            attribution.look_for(inode, 0);
            assert_eq!(attribution.process(inode), None);
        }
    }
}
