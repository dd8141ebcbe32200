//! # Owners, live
//!
//! The owner of a socket: a process that holds a descriptor of it now, by the socket's inode
//! number; its cgroup by the cgroup's id, its container by the cgroup's path. An unresolved owner is
//! `null`, never a guess: the task that a timer interrupted is not an owner.
//!
//! No caller here waits for a pass over all descriptors. Owners are learned from the tasks that act
//! (connect, accept, setsockopt, close); each is checked again when it is older than 0.75 s;
//! the rest is resolved by a thread with a budget (`resolver.rs`), whose answers are taken between two
//! records.

mod budget;
mod cgroups;
mod held;
mod places;
mod resolver;
mod snapshot;

use std::{
    fs, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    core::{
        event::{ArmedCause, Event, Process},
        owners::{Owners, Place},
        tracker::{Acting, Observation},
    },
    machine::{
        bpf::iterator::Iterators,
        clock::monotonic_ns,
        descriptors::{self, Descriptor},
    },
};

use self::{
    budget::Nanoseconds,
    held::{Held, Holding, Processes},
    places::{Mode, Places},
    resolver::{Resolver, Subject, Want},
};

pub use self::cgroups::{cgroup_id, cgroup2_root};

/// The owner of a new incoming connection is requested after this time, when it is most likely accepted.
const ACCEPT_AFTER: Nanoseconds = 250_000_000;

/// Resolves and remembers the owners of sockets, and where these were created.
pub struct LiveOwners {
    held: Held,
    places: Places,
    /// `None` if owners are not resolved, or not yet.
    resolver: Option<Resolver>,
    /// Whether the process ids the programs report are those of /proc.
    same_pids: bool,
    /// Whether the programs report the process that accepts a connection.
    sees_accept: bool,
}

impl LiveOwners {
    /// `preferred` is the requested process (`-p`); [`LiveOwners::start`] begins to resolve.
    pub fn new(same_pids: bool, preferred: Option<u32>, sees_accept: bool) -> Self {
        Self {
            held: Held::new(preferred),
            places: Places::new(Mode::live()),
            resolver: None,
            same_pids,
            sees_accept,
        }
    }

    /// Starts to resolve the owners that acting tasks do not show, beginning with all existing sockets.
    pub fn start(&mut self, iterators: Option<Arc<Mutex<Iterators>>>) {
        self.resolver = Some(Resolver::start(iterators.filter(|_| self.same_pids)));
    }

    /// Waits for the owners of older sockets, but no longer than this: a pass may take seconds.
    pub fn await_first_pass(&self, patience: Duration) {
        if let Some(resolver) = &self.resolver {
            resolver.await_first_pass(patience);
        }
    }

    /// A socket has no inode number before it is accepted. Where the programs do not report the accept, a
    /// pass a little later finds the process that accepted it, before its next event comes.
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
            Event::Start(_)
            | Event::Armed(_)
            | Event::Timer(_)
            | Event::WindowProbe(_)
            | Event::SendRetry(_)
            | Event::Answer(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => {}
        }
    }

    fn ask(&self, subject: Subject, want: Want) {
        if let Some(resolver) = &self.resolver {
            resolver.ask(subject, want);
        }
    }

    fn learn(&mut self, inode: u64, acting: Acting, now: Nanoseconds) -> Option<Want> {
        if inode == 0 || !self.same_pids {
            return None;
        }
        let (pid, comm) = acting;
        let comm = comm.split(|&byte| byte == 0).next().unwrap_or_default();
        let comm = descriptors::comm_from(comm);
        self.held.acted(inode, Process { pid, comm }, now)
    }

    fn take_answers(&mut self, now: Nanoseconds) {
        let Some(answers) = self.resolver.as_ref().and_then(Resolver::answers) else {
            return;
        };
        if let Some(snapshot) = answers.snapshot {
            self.held.take_snapshot(snapshot);
        }
        for scan in &answers.scans {
            self.held.take_scan(scan, &mut Proc, now);
        }
        for walked in &answers.walks {
            self.places.take(walked, now);
        }
    }
}

impl Owners for LiveOwners {
    fn acted(&mut self, inode: u64, acting: Acting, now: u64) {
        self.take_answers(now);
        if let Some(want) = self.learn(inode, acting, now) {
            self.ask(Subject::Inode(inode), want);
        }
    }

    fn closing(&mut self, inode: u64, acting: Acting, now: u64) {
        self.take_answers(now);
        self.learn(inode, acting, now);
        if let Some(resolver) = &self.resolver {
            resolver.cancel(Subject::Inode(inode));
        }
    }

    fn expect(&mut self, inode: u64, now: u64) {
        self.take_answers(now);
        if inode == 0 || self.resolver.is_none() {
            return;
        }
        if let Some(want) = self.held.resolve(inode, now, false, &mut Proc) {
            self.ask(Subject::Inode(inode), want);
        }
    }

    fn observe(&mut self, observation: &Observation, now: u64) {
        self.take_answers(now);
        let inode = observation.inode;
        let mut want = observation
            .acting
            .and_then(|acting| self.learn(inode, acting, now));
        if self.resolver.is_some() {
            let is_end = matches!(observation.event, Event::Closed(_));
            // The process that closed it was its last holder.
            if inode != 0 && !(is_end && observation.acting.is_some()) {
                let settled = is_end || observation.settled;
                let resolved = self.held.resolve(inode, now, settled, &mut Proc);
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

    fn process(&self, inode: u64) -> Option<&Arc<Process>> {
        self.held.process(inode)
    }

    fn place(&self, id: u64) -> Option<Place> {
        self.places.get(id)
    }

    fn forget(&mut self, inode: u64) {
        self.held.forget(inode);
        if let Some(resolver) = self.resolver.as_ref().filter(|_| inode != 0) {
            resolver.cancel(Subject::Inode(inode));
        }
    }
}

/// Resolves only cgroups, for a command that waits for their paths.
pub struct Cgroups(Places);

impl Cgroups {
    pub fn open() -> Self {
        Self(Places::new(Mode::at_once()))
    }

    /// The place with this cgroup id; `None` if it has none.
    pub fn resolve(&mut self, id: u64) -> Option<Place> {
        self.0.resolve(id, monotonic_ns());
        self.0.get(id)
    }
}

/// The lookups in /proc of this machine.
struct Proc;

impl Processes for Proc {
    fn descriptor(&mut self, descriptor: &Descriptor) -> Holding {
        match descriptors::is_held(descriptor) {
            Ok(true) => Holding::Held,
            Ok(false) => Holding::Gone,
            Err(_) => Holding::Denied,
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

/// The name of a process; empty if it has ended.
pub fn comm_of(pid: u32) -> String {
    read_name(pid).unwrap_or_default()
}

#[cfg(test)]
mod tests;
