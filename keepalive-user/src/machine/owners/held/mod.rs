//! The resolved owners: which process holds which socket, as of when, and what to request.
//! This module reads nothing itself: the time and the lookups in /proc are arguments.

use std::{os::fd::RawFd, sync::Arc};

use crate::{
    core::{
        event::Process,
        owners::{LruMap, SOCKETS},
    },
    machine::descriptors::Descriptor,
};

use super::{
    budget::{Nanoseconds, Tokens},
    resolver::{Scan, Want},
    snapshot::DescriptorSnapshot,
};

const SECOND: Nanoseconds = 1_000_000_000;
/// How long a holder, and the name of a process, are assumed unchanged: less than a second, the shortest
/// time between two keepalive timers of a socket.
const FRESH: Nanoseconds = SECOND / 4 * 3;
/// A task that acted on a socket is checked again after this time: servers fork after they accept.
const VERIFY_AFTER: Nanoseconds = SECOND / 4;
/// A socket for which no holder was found is requested again after one second, then two, four and so on, at
/// most after this many seconds.
const LONGEST_PAUSE: u64 = 64;
/// The most processes whose name is kept.
const PROCESSES: usize = 1 << 14;
/// The most lookups per second between records: some microseconds each.
const LOOKUPS: u64 = 256;

/// The result of a lookup of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    Held,
    /// It is closed, or refers to another file.
    Gone,
    /// /proc does not allow the lookup.
    Denied,
}

/// The lookups in /proc.
pub trait Processes {
    fn descriptor(&mut self, descriptor: &Descriptor) -> Holding;
    /// The name of a process; `None` if it has ended.
    fn name(&mut self, pid: u32) -> Option<String>;
}

/// One socket.
#[derive(Default)]
struct Owner {
    /// A process that held it at `checked`; `None` if unresolved.
    process: Option<Arc<Process>>,
    /// The descriptor, if a lookup found it.
    fd: Option<RawFd>,
    checked: Nanoseconds,
    /// The time from which `process` does not hold it any more, by a scan. 0 = no scan found that.
    lost: Nanoseconds,
    /// When a pass was requested since it was last resolved; 0 = not.
    asked: Nanoseconds,
    /// Passes in a row that found no holder.
    failures: u32,
    /// It is not requested again before this time.
    pause: Nanoseconds,
}

/// One process.
struct Name {
    process: Arc<Process>,
    checked: Nanoseconds,
}

pub struct Held {
    sockets: LruMap<u64, Owner>,
    names: LruMap<u32, Name>,
    tokens: Tokens,
    /// The requested process (`-p`): if it is a holder, it is the owner.
    preferred: Option<u32>,
    snapshot: Arc<DescriptorSnapshot>,
}

impl Held {
    pub fn new(preferred: Option<u32>) -> Self {
        Self {
            sockets: LruMap::new(SOCKETS),
            names: LruMap::new(PROCESSES),
            tokens: Tokens::new(LOOKUPS),
            preferred,
            snapshot: Arc::default(),
        }
    }

    /// The owner as it was last resolved.
    pub fn process(&self, inode: u64) -> Option<&Arc<Process>> {
        self.sockets.peek(&inode)?.process.as_ref()
    }

    /// The socket has ended.
    pub fn forget(&mut self, inode: u64) {
        self.sockets.remove(&inode);
    }

    pub fn take_snapshot(&mut self, snapshot: Arc<DescriptorSnapshot>) {
        self.snapshot = snapshot;
    }

    /// This process acted on the socket at `now`, through a descriptor of its own. Returns what to request,
    /// unless the descriptor is known.
    pub fn acted(&mut self, inode: u64, process: Process, now: Nanoseconds) -> Option<Want> {
        let pid = process.pid;
        let process = self.named(process, now);
        let owner = entry(&mut self.sockets, inode);
        match &owner.process {
            Some(known) if known.pid == pid => {}
            // Both hold it.
            Some(known) if self.preferred == Some(known.pid) => return None,
            _ => owner.fd = None,
        }
        owner.process = Some(process);
        owner.checked = owner.checked.max(now);
        (owner.lost, owner.failures, owner.pause) = (0, 0, 0);
        owner.fd.is_none().then_some(Want {
            pid: Some(pid),
            due: now + VERIFY_AFTER,
        })
    }

    /// An event of the socket: resolves its owner with the information at hand, and returns what to request
    /// if that is not enough. For a socket that is `settled`, dead or without a descriptor, the last holder
    /// stays.
    pub fn resolve(
        &mut self,
        inode: u64,
        now: Nanoseconds,
        settled: bool,
        proc: &mut impl Processes,
    ) -> Option<Want> {
        self.consult(inode, now, settled, proc);
        let owner = self.sockets.get_mut(&inode)?;
        if owner.lost != 0 && owner.lost <= now {
            owner.lose();
        }
        if let Some(process) = &mut owner.process {
            let pid = process.pid;
            let name = self.names.get_mut(&pid);
            refresh(process, name, now, &mut self.tokens, proc);
            if settled || now.saturating_sub(owner.checked) < FRESH {
                return None;
            }
            let look = match owner.fd {
                Some(fd) if self.tokens.take(now) => {
                    proc.descriptor(&Descriptor { inode, pid, fd })
                }
                _ => Holding::Denied,
            };
            match look {
                Holding::Held => {
                    owner.checked = now;
                    return None;
                }
                Holding::Gone => owner.lose(),
                Holding::Denied => {}
            }
        }
        if settled || now < owner.pause {
            return None;
        }
        if owner.asked == 0 {
            owner.asked = now;
        }
        let holder = owner.process.as_ref().map(|process| process.pid);
        Some(Want {
            pid: holder.or(self.preferred),
            due: now,
        })
    }

    /// Applies the result of the last pass, if it is newer.
    fn consult(&mut self, inode: u64, now: Nanoseconds, settled: bool, proc: &mut impl Processes) {
        let snapshot = Arc::clone(&self.snapshot);
        let owner = entry(&mut self.sockets, inode);
        if owner.checked >= snapshot.started {
            return;
        }
        // The socket may have been closed or passed on between the event and the pass.
        let is_older = now < snapshot.started;
        if is_older && owner.process.is_some() {
            return;
        }
        let current = owner.process.as_ref().map(|process| process.pid);
        match snapshot.holder(inode, [self.preferred, current]) {
            Some(found) => self.found(&found, snapshot.started, proc, now),
            // The last holder has closed it, or the list is incomplete.
            None if is_older || settled || snapshot.is_cut() => {}
            None => {
                owner.lose();
                owner.checked = snapshot.started;
                // The pass could not find a socket that is newer.
                if owner.asked != 0 && owner.asked <= snapshot.started {
                    let pause = (1 << owner.failures.min(6)).min(LONGEST_PAUSE);
                    owner.failures += 1;
                    owner.pause = snapshot.started + pause * SECOND;
                    owner.asked = 0;
                }
            }
        }
    }

    /// A descriptor that existed at `when`. Without the process's name, which needs a lookup, the socket stays
    /// unresolved.
    fn found(
        &mut self,
        found: &Descriptor,
        when: Nanoseconds,
        proc: &mut impl Processes,
        now: Nanoseconds,
    ) {
        let process = match self.names.get_mut(&found.pid) {
            Some(name) => Some(Arc::clone(&name.process)),
            None if self.tokens.take(now) => proc.name(found.pid).map(|comm| {
                let pid = found.pid;
                self.named(Process { pid, comm }, now)
            }),
            None => None,
        };
        let Some(process) = process else {
            return;
        };
        let owner = entry(&mut self.sockets, found.inode);
        *owner = Owner {
            process: Some(process),
            fd: Some(found.fd),
            checked: when,
            ..Owner::default()
        };
    }

    /// The result of a scan of one process for sockets that it held. Events older than the scan may
    /// still be in the ring: for these the process stays the owner, and permanently if one is its close.
    pub fn take_scan(&mut self, scan: &Scan, proc: &mut impl Processes, now: Nanoseconds) {
        for found in &scan.held {
            let owner = self.sockets.peek(&found.inode);
            // Skip it if the socket has ended, or newer information exists.
            if owner.is_some_and(|owner| owner.checked <= scan.started) {
                self.found(found, scan.started, proc, now);
            }
        }
        for inode in &scan.missing {
            if let Some(owner) = self.sockets.get_mut(inode)
                && owner.checked <= scan.started
                && owner.process.as_ref().map(|process| process.pid) == Some(scan.pid)
            {
                owner.lost = scan.started;
                owner.asked = scan.started;
            }
        }
    }

    /// Shares one name among all sockets of a process.
    fn named(&mut self, process: Process, now: Nanoseconds) -> Arc<Process> {
        if let Some(name) = self.names.get_mut(&process.pid)
            && *name.process == process
        {
            name.checked = name.checked.max(now);
            return Arc::clone(&name.process);
        }
        let (pid, process) = (process.pid, Arc::new(process));
        let name = Name {
            process: Arc::clone(&process),
            checked: now,
        };
        self.names.insert(pid, name);
        process
    }
}

impl Owner {
    /// The process is not the owner any more.
    fn lose(&mut self) {
        (self.process, self.fd, self.lost) = (None, None, 0);
    }
}

fn entry(sockets: &mut LruMap<u64, Owner>, inode: u64) -> &mut Owner {
    sockets.get_or_insert(inode, Owner::default)
}

/// A process may have executed another program since it was named.
fn refresh(
    process: &mut Arc<Process>,
    name: Option<&mut Name>,
    now: Nanoseconds,
    tokens: &mut Tokens,
    proc: &mut impl Processes,
) {
    let Some(name) = name else {
        return;
    };
    if now.saturating_sub(name.checked) >= FRESH && tokens.take(now) {
        name.checked = now;
        // The last name of an ended process stays.
        if let Some(comm) = proc.name(process.pid)
            && comm != name.process.comm
        {
            let pid = process.pid;
            name.process = Arc::new(Process { pid, comm });
        }
    }
    if !Arc::ptr_eq(process, &name.process) {
        *process = Arc::clone(&name.process);
    }
}

#[cfg(test)]
mod tests;
