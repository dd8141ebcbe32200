//! # Owners
//!
//! Which process holds a socket, and where it was created. A live trace resolves both
//! (`machine::owners`); a replay has what the live one found, from the recording.

mod place;
mod table;

use std::sync::Arc;

use super::{
    event::Process,
    tracker::{Acting, Observation},
};

pub use self::{place::Place, table::Table};

/// Sockets whose owner is remembered, by a trace, a recorder and a replay alike: what a recorder does
/// not write again a replay must not have forgotten.
pub const SOCKETS: usize = 1 << 18;
/// As [`SOCKETS`], of cgroups.
pub const CGROUPS: usize = 1 << 14;

/// Resolves owners and places, and remembers them. Times are CLOCK_MONOTONIC, nanoseconds.
pub trait Owners {
    /// A process acted on a socket of its own.
    fn acted(&mut self, inode: u64, acting: Acting, now: u64);
    /// A process closes a socket: from now on it may have no descriptor.
    fn closing(&mut self, inode: u64, acting: Acting, now: u64);
    /// An event of a socket: its owner is wanted, as far as it is resolved without waiting.
    fn observe(&mut self, observation: &Observation, now: u64);
    /// The owner of the socket with this inode number; `None` if unresolved.
    fn process(&self, inode: u64) -> Option<&Arc<Process>>;
    /// The place with this cgroup id; `None` if it has none.
    fn place(&self, id: u64) -> Option<Place>;
    /// The socket has ended: its inode number may come again.
    fn forget(&mut self, inode: u64);
}

/// Owners as a recording has them.
pub struct Recorded {
    processes: Table<u64, Arc<Process>>,
    places: Table<u64, Place>,
    /// One name for all sockets of a process.
    names: Table<u32, Arc<Process>>,
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            processes: Table::new(SOCKETS),
            places: Table::new(CGROUPS),
            names: Table::new(1 << 14),
        }
    }
}

impl Recorded {
    /// From now on this process is the owner, or none is.
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

    // The recording has an owner again where the recorder may have forgotten it.
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
