//! # Attribution
//!
//! The owner of a socket: a process that holds a descriptor of it now, by the socket's inode
//! number; its cgroup by the cgroup's id, its container by the cgroup's path. What is not found is
//! `null`, never a guess: the task a timer interrupted is no owner.
//!
//! Nothing here waits for a pass over all descriptors. Owners are learned from the tasks that act
//! (connect, accept, setsockopt, close), each is looked at again when it is older than a second,
//! and what remains is left to a thread with a budget (`resolver.rs`), whose answers are taken
//! between two records.
//!
//! Of a replayed trace nothing is resolved: what the live one found comes with the recording.

mod budget;
mod cgroups;
mod owners;
mod places;
mod resolver;
mod snapshot;
mod table;

use std::{
    fs, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    clock::monotonic_ns,
    descriptors::{self, Descriptor},
    event::{ArmedCause, Cgroup, Event, Process},
    source::iterator::Iterators,
    tracker::Observation,
};

use self::{
    budget::Nanoseconds,
    owners::{Look, Looks, Owners},
    places::{Finder, Places},
    resolver::{Resolver, Subject, Want},
};

pub use self::{
    cgroups::{Place, cgroup2_root},
    places::CGROUPS,
};

/// A socket that was just connected to is asked for when it was accepted, most likely.
const ACCEPT_AFTER: Nanoseconds = 250_000_000;

/// Resolves and remembers owners.
pub struct Attribution {
    owners: Owners,
    places: Places,
    /// `None` if nothing is resolved, or not yet.
    resolver: Option<Resolver>,
    /// Whether the process ids the programs report are those of /proc.
    same_pids: bool,
    /// Whether the programs report who accepts a connection.
    sees_accept: bool,
}

impl Attribution {
    /// For a live trace. `preferred` is the process that is asked for; [`Attribution::start`] is
    /// what makes it live.
    pub fn live(same_pids: bool, preferred: Option<u32>, sees_accept: bool) -> Self {
        Self {
            owners: Owners::new(preferred),
            places: Places::new(Finder::live()),
            resolver: None,
            same_pids,
            sees_accept,
        }
    }

    /// For whoever only wants cgroups, and waits for them.
    pub fn of_cgroups() -> Self {
        Self {
            places: Places::new(Finder::at_once()),
            ..Self::live(false, None, false)
        }
    }

    /// One that is told everything and resolves nothing.
    pub fn told() -> Self {
        Self {
            places: Places::new(Finder::Told),
            ..Self::live(false, None, false)
        }
    }

    /// Starts to resolve what acting tasks do not tell, beginning with all sockets there are.
    pub fn start(&mut self, iterators: Option<Arc<Mutex<Iterators>>>) {
        self.resolver = Some(Resolver::start(iterators.filter(|_| self.same_pids)));
    }

    /// Waits for the owners of older sockets, but not for long: a pass may take seconds.
    pub fn await_first_pass(&self, patience: Duration) {
        if let Some(resolver) = &self.resolver {
            resolver.await_first_pass(patience);
        }
    }

    /// A process acts on a socket of its own, and nothing comes of it but that.
    pub fn acted(&mut self, inode: u64, acting: (u32, [u8; 16]), now: Nanoseconds) {
        self.take_news(now);
        if let Some(want) = self.learn(inode, acting, now) {
            self.ask(Subject::Inode(inode), want);
        }
    }

    /// As [`Attribution::acted`], by closing the socket: from now on it may have no descriptor.
    pub fn closing(&mut self, inode: u64, acting: (u32, [u8; 16]), now: Nanoseconds) {
        self.take_news(now);
        self.learn(inode, acting, now);
        if let Some(resolver) = &self.resolver {
            resolver.cancel(Subject::Inode(inode));
        }
    }

    /// An event: its socket's owner is resolved, as far as that can be had at once.
    pub fn observe(&mut self, observation: &Observation, now: Nanoseconds) {
        self.take_news(now);
        let inode = observation.inode;
        let mut want = observation
            .acting
            .and_then(|acting| self.learn(inode, acting, now));
        if self.resolver.is_some() {
            let is_end = matches!(observation.event, Event::Closed(_));
            // Whoever closed it is the last that held it.
            if inode != 0 && !(is_end && observation.acting.is_some()) {
                let settled = is_end || observation.settled;
                let resolved = self.owners.resolve(inode, now, settled, &mut Proc);
                want = resolved.or(want);
            }
            if let Some(want) = want.filter(|_| !is_end) {
                self.ask(Subject::Inode(inode), want);
            }
            self.await_accept(observation, now);
        }
        if self.places.resolve(observation.cgroup, now)
            && let Some(resolver) = &self.resolver
        {
            resolver.ask_cgroup(observation.cgroup);
        }
    }

    /// A socket has no inode number before it is accepted. Where the programs do not see that, a
    /// pass a little later finds whoever accepted it, before its next event comes.
    fn await_accept(&self, observation: &Observation, now: Nanoseconds) {
        let Some(resolver) = self.resolver.as_ref().filter(|_| !self.sees_accept) else {
            return;
        };
        match &observation.event {
            Event::Armed(armed)
                if armed.what.cause == ArmedCause::Accept && observation.inode == 0 =>
            {
                let want = Want {
                    pid: None,
                    due: now + ACCEPT_AFTER,
                };
                resolver.ask(Subject::Unaccepted(armed.socket.id), want);
            }
            Event::Closed(closed) => resolver.cancel(Subject::Unaccepted(closed.socket.id)),
            _ => {}
        }
    }

    fn ask(&self, subject: Subject, want: Want) {
        if let Some(resolver) = &self.resolver {
            resolver.ask(subject, want);
        }
    }

    fn learn(&mut self, inode: u64, acting: (u32, [u8; 16]), now: Nanoseconds) -> Option<Want> {
        if inode == 0 || !self.same_pids {
            return None;
        }
        let (pid, comm) = acting;
        let comm = comm.split(|&byte| byte == 0).next().unwrap_or_default();
        let comm = descriptors::comm_from(comm);
        self.owners.acted(inode, Process { pid, comm }, now)
    }

    fn take_news(&mut self, now: Nanoseconds) {
        let Some(news) = self.resolver.as_ref().and_then(Resolver::news) else {
            return;
        };
        if let Some(snapshot) = news.snapshot {
            self.owners.take_snapshot(snapshot);
        }
        for scan in &news.scans {
            self.owners.take_scan(scan, &mut Proc, now);
        }
        for walked in &news.walks {
            self.places.take(walked, now);
        }
    }

    /// The owner of the socket with this inode number, as far as it is resolved.
    pub fn process(&self, inode: u64) -> Option<&Arc<Process>> {
        self.owners.process(inode)
    }

    /// The place with this cgroup id, as far as it is known.
    pub fn place(&self, id: u64) -> Option<Place> {
        self.places.get(id)
    }

    /// The cgroup with this id and the container it is of, resolved.
    pub fn cgroup(&mut self, id: u64) -> (Option<Arc<Cgroup>>, Option<Arc<str>>) {
        let now = monotonic_ns().unwrap_or_default();
        self.places.resolve(id, now);
        self.place(id).map_or((None, None), |place| {
            (Some(place.cgroup), place.container_id)
        })
    }

    /// What the recording says: whose the socket is from now on.
    pub fn tell_process(&mut self, inode: u64, process: Option<Process>) {
        self.owners.set(inode, process);
    }

    /// What the recording says: the path of a cgroup from now on.
    pub fn tell_cgroup(&mut self, id: u64, path: Option<&str>) {
        self.places.set(id, path);
    }

    /// The socket has ended: its inode number may come again.
    pub fn forget(&mut self, inode: u64) {
        self.owners.forget(inode);
        if let Some(resolver) = self.resolver.as_ref().filter(|_| inode != 0) {
            resolver.cancel(Subject::Inode(inode));
        }
    }
}

/// The looks into /proc of this machine.
struct Proc;

impl Looks for Proc {
    fn descriptor(&mut self, descriptor: &Descriptor) -> Look {
        match descriptors::is_held(descriptor) {
            Ok(true) => Look::Held,
            Ok(false) => Look::Gone,
            Err(_) => Look::Denied,
        }
    }

    fn name(&mut self, pid: u32) -> Option<String> {
        read_name(pid).ok()
    }
}

fn read_name(pid: u32) -> io::Result<String> {
    let comm = fs::read(format!("/proc/{pid}/comm"))?;
    Ok(descriptors::comm_from(&comm))
}

/// The name of a process; empty if it is gone.
pub fn comm_of(pid: u32) -> String {
    read_name(pid).unwrap_or_default()
}

#[cfg(test)]
mod tests;
