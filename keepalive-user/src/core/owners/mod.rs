//! # Owners
//!
//! Which process holds a socket, and the cgroup it was created in. A live trace resolves both
//! (`machine::owners`); a replay reads from the recording what the live trace resolved.

mod lru_map;
mod place;

use std::sync::Arc;

use super::{
    event::Process,
    tracker::{Acting, Observation},
};

pub use self::{lru_map::LruMap, place::Place};

/// Sockets whose owner is remembered, the same number for trace, recorder and replay: the recorder
/// writes an owner once, so a replay must remember it for as long.
pub const SOCKETS: usize = 1 << 18;
/// As [`SOCKETS`], of cgroups.
pub const CGROUPS: usize = 1 << 14;

/// Resolves owners and places, and caches them. Times are CLOCK_MONOTONIC, nanoseconds.
pub trait Owners {
    /// A process acted on a socket that it holds.
    fn acted(&mut self, inode: u64, acting: Acting, now: u64);
    /// A process closes a socket: its descriptor may be gone from now on.
    fn closing(&mut self, inode: u64, acting: Acting, now: u64);
    /// The end of this socket may be reported soon: resolves its owner ahead.
    fn expect(&mut self, inode: u64, now: u64);
    /// An event of a socket: resolves its owner as far as possible without waiting.
    fn observe(&mut self, observation: &Observation, now: u64);
    /// The owner of the socket with this inode number; `None` if unresolved.
    fn process(&self, inode: u64) -> Option<&Arc<Process>>;
    /// The place with this cgroup id; `None` if it has none.
    fn place(&self, id: u64) -> Option<Place>;
    /// The socket has ended: its inode number may be reused.
    fn forget(&mut self, inode: u64);
}

/// Owners from a recording.
pub struct Recorded {
    processes: LruMap<u64, Arc<Process>>,
    places: LruMap<u64, Place>,
    /// One shared value for all sockets of a process.
    names: LruMap<u32, Arc<Process>>,
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            processes: LruMap::new(SOCKETS),
            places: LruMap::new(CGROUPS),
            names: LruMap::new(1 << 14),
        }
    }
}

impl Recorded {
    /// From now on this process is the owner, or the owner is unresolved.
    pub fn set_process(&mut self, inode: u64, process: Option<Process>) {
        let Some(process) = process else {
            self.processes.remove(&inode);
            return;
        };
        let known = self.names.get_mut(&process.pid);
        let process = match known.filter(|known| ***known == process) {
            Some(known) => Arc::clone(known),
            None => {
                let named = Arc::new(process);
                self.names.insert(named.pid, Arc::clone(&named));
                named
            }
        };
        self.processes.insert(inode, process);
    }

    /// From now on the cgroup has this path, or none.
    pub fn set_cgroup(&mut self, id: u64, path: Option<&str>) {
        match path {
            Some(path) => self.places.insert(id, Place::new(id, Some(path))),
            None => self.places.remove(&id),
        }
    }
}

impl Owners for Recorded {
    fn acted(&mut self, _: u64, _: Acting, _: u64) {}

    fn closing(&mut self, _: u64, _: Acting, _: u64) {}

    fn expect(&mut self, _: u64, _: u64) {}

    // The recorder writes an owner again after it has dropped its entry.
    fn observe(&mut self, _: &Observation, _: u64) {}

    fn process(&self, inode: u64) -> Option<&Arc<Process>> {
        self.processes.peek(&inode)
    }

    fn place(&self, id: u64) -> Option<Place> {
        match self.places.peek(&id) {
            _ if id == 0 => None,
            Some(place) => Some(place.clone()),
            None => Some(Place::new(id, None)),
        }
    }

    fn forget(&mut self, inode: u64) {
        self.processes.remove(&inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_resolved_and_nothing_else() {
        let mut owners = Recorded::default();
        assert_eq!(owners.place(7).unwrap().cgroup.path, None);
        assert_eq!(owners.place(0), None);
        owners.set_cgroup(7, Some("/a"));
        assert_eq!(owners.place(7), Some(Place::new(7, Some("/a"))));
        owners.set_cgroup(7, None);
        assert_eq!(owners.place(7), Some(Place::new(7, None)));
        let sshd = Process {
            pid: 7,
            comm: "sshd".to_owned(),
        };
        owners.set_process(1, Some(sshd.clone()));
        owners.set_process(2, Some(sshd));
        let [one, two] = [1, 2].map(|inode| owners.process(inode).unwrap());
        assert!(Arc::ptr_eq(one, two));
        owners.forget(1);
        assert_eq!(
            (owners.process(1), owners.process(2).is_some()),
            (None, true)
        );
    }
}
