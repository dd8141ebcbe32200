//! What is remembered of one socket.

use std::hash::BuildHasher;

use keepalive_ebpf::{Identity, KIND_KEEPALIVE_TIMER, Record};
use rustc_hash::FxBuildHasher;

use super::{Observation, probe::Outstanding};
use crate::event::{Event, Totals};

/// One socket.
pub struct Socket {
    pub id: u64,
    /// To notice that another socket is at the same place now: its cookie and, where there is
    /// none, a hash of its namespace, addresses and ports.
    pub cookie: u64,
    pub connection: u64,
    pub inode: u64,
    pub cgroup: u64,
    /// CLOCK_MONOTONIC of the last record, nanoseconds.
    pub last_seen: u64,
    /// Known from a listing only: no record of it came yet.
    pub is_seed: bool,
    /// CLOCK_MONOTONIC of the first record, nanoseconds.
    pub first_seen: u64,
    /// CLOCK_MONOTONIC when it was established, 0 if that was not seen.
    pub established: u64,
    pub outstanding: Option<Outstanding>,
    /// The task that closed it.
    pub closer: Option<(u32, [u8; 16])>,
    pub totals: Totals,
    /// The end, seen inside the timer run that caused it and reported after that run.
    pub end: Option<Box<Record>>,
}

impl Socket {
    pub fn new(id: u64, identity: &Identity, time: u64) -> Self {
        Self {
            id,
            cookie: identity.cookie,
            connection: connection(identity),
            inode: 0,
            cgroup: 0,
            last_seen: 0,
            is_seed: false,
            first_seen: time,
            established: 0,
            outstanding: None,
            closer: None,
            totals: Totals::default(),
            end: None,
        }
    }

    /// Whether the record is of another socket at the same address: the kernel reuses them.
    pub fn is_another(&self, record: &Record) -> bool {
        let cookie = record.id.cookie;
        let other_cookie = self.cookie != 0 && cookie != 0 && self.cookie != cookie;
        let after_end = self.end.is_some() && record.kind != KIND_KEEPALIVE_TIMER;
        other_cookie || after_end || self.connection != connection(&record.id)
    }

    /// What a later record may no longer have: an orphan has no inode.
    pub fn learn(&mut self, identity: &Identity, time: u64) {
        let keep = |old: u64, new: u64| if new == 0 { old } else { new };
        self.cookie = keep(self.cookie, identity.cookie);
        self.inode = keep(self.inode, identity.inode);
        self.cgroup = keep(self.cgroup, identity.cgroup);
        self.last_seen = time;
    }

    pub fn observation(&self, record: &Record, event: Event) -> Observation {
        let keep = |old: u64, new: u64| if new == 0 { old } else { new };
        Observation {
            event,
            inode: keep(self.inode, record.id.inode),
            cgroup: keep(self.cgroup, record.id.cgroup),
            acting: None,
        }
    }
}

/// Tells connections apart.
fn connection(id: &Identity) -> u64 {
    FxBuildHasher.hash_one((id.netns, id.local, id.peer, id.local_port, id.peer_port))
}
