//! The state kept for one socket: small, because there may be a million.

use std::hash::BuildHasher;

use keepalive_ebpf::{Identity, Kind, Record, RecordFlags, Settings};
use rustc_hash::FxBuildHasher;

use super::{Acting, Observation, acting, continuity::Continuity, probe::Outstanding};
use crate::core::{
    decisions::fatal_signal,
    event::{Event, Sysctl, Totals},
    kernel::state,
    sample::last_data,
};

/// One socket.
pub struct Socket {
    pub id: u64,
    /// Detects that another socket has the same address now: its cookie or, without one,
    /// a hash of its namespace, addresses and ports.
    pub cookie: u64,
    connection: u32,
    /// Known from a listing only, without any record so far.
    pub is_seed: bool,
    /// As of its last record; none before the first one.
    pub own: Own,
    pub netns: u32,
    pub inode: u64,
    pub cgroup: u64,
    /// CLOCK_MONOTONIC of the last record, nanoseconds.
    pub last_seen: u64,
    /// CLOCK_MONOTONIC of the first record, nanoseconds.
    pub first_seen: u64,
    /// CLOCK_MONOTONIC when it was established, 0 if that was not seen.
    pub established: u64,
    pub outstanding: Option<Outstanding>,
    /// When the last probe was sent that was answered together with earlier ones, CLOCK_MONOTONIC,
    /// nanoseconds, 0 = none: late answers may follow.
    pub unresolved: u64,
    /// `None` before the first sample.
    pub continuity: Option<Continuity>,
    /// How a process closed it.
    pub closer: Option<Box<Closer>>,
    pub tally: Tally,
    /// The end, observed inside the timer run that caused it and reported after that run.
    pub end: Option<Box<Record>>,
}

/// The settings that a socket has of its own, which the kernel uses instead of its namespace's sysctls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    time: bool,
    interval: bool,
    probes: bool,
    user_timeout: bool,
}

impl Own {
    fn of(settings: &Settings) -> Self {
        Self {
            time: settings.time != 0,
            interval: settings.interval != 0,
            probes: settings.probes != 0,
            user_timeout: settings.user_timeout != 0,
        }
    }

    /// Whether the kernel does not use this sysctl for the socket.
    pub fn replaces(self, sysctl: Sysctl) -> bool {
        match sysctl {
            Sysctl::TcpKeepaliveTime => self.time,
            Sysctl::TcpKeepaliveIntvl => self.interval,
            Sysctl::TcpKeepaliveProbes => self.probes,
            Sysctl::TcpRetries2 => self.user_timeout,
        }
    }
}

/// A process that closes a socket.
#[derive(Clone, Copy, Debug)]
pub struct Closer {
    pub acting: Option<Acting>,
    /// It is exiting.
    pub exiting: bool,
    /// The signal that killed it.
    pub signal: Option<u32>,
    /// Time since data was last received, jiffies; `None` = never.
    pub last_data: Option<u32>,
}

impl Closer {
    /// The process that acts in this record.
    pub fn of(record: &Record) -> Self {
        Self {
            acting: acting(record),
            exiting: record.flags.contains(RecordFlags::EXITING),
            signal: fatal_signal(record),
            last_data: last_data(&record.after),
        }
    }
}

// There may be a million sockets.
const _: () = assert!(size_of::<Socket>() <= 200);

/// [`Totals`] in compact form.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub timers: u32,
    pub keepalive_probes: u32,
    pub keepalive_answers: u32,
    pub window_probes: u16,
    pub window_answers: u16,
    /// Probes of both kinds that a later answer may have answered.
    pub unresolved: u32,
    /// Slowest answer, microseconds plus one; 0 = none.
    worst_rtt: u32,
}

impl Tally {
    /// Records the round-trip time of an answer, microseconds.
    pub fn answered_after(&mut self, rtt_us: u64) {
        let rtt = u32::try_from(rtt_us.saturating_add(1)).unwrap_or(u32::MAX);
        self.worst_rtt = self.worst_rtt.max(rtt);
    }
}

impl From<Tally> for Totals {
    fn from(tally: Tally) -> Self {
        Self {
            timers: tally.timers.into(),
            keepalive_probes: tally.keepalive_probes.into(),
            keepalive_answers: tally.keepalive_answers.into(),
            window_probes: tally.window_probes.into(),
            window_answers: tally.window_answers.into(),
            unresolved_probes: tally.unresolved.into(),
            worst_rtt_us: tally.worst_rtt.checked_sub(1).map(u64::from),
        }
    }
}

impl Socket {
    pub fn new(id: u64, identity: &Identity, time: u64) -> Self {
        Self {
            id,
            cookie: identity.cookie,
            connection: connection(identity),
            is_seed: false,
            own: Own::default(),
            netns: identity.netns,
            inode: 0,
            cgroup: 0,
            last_seen: 0,
            first_seen: time,
            established: 0,
            outstanding: None,
            unresolved: 0,
            continuity: None,
            closer: None,
            tally: Tally::default(),
            end: None,
        }
    }

    /// Whether the record is of another socket at the same address: the kernel reuses addresses.
    pub fn is_another(&self, record: &Record) -> bool {
        let after_end = self.end.is_some() && record.kind != Kind::KeepaliveTimer;
        after_end || !self.is_same(&record.id)
    }

    /// Whether this is the identity of exactly this socket.
    pub fn is_same(&self, id: &Identity) -> bool {
        match (self.cookie, id.cookie) {
            (0, _) | (_, 0) => self.connection == connection(id),
            (own, other) => own == other,
        }
    }

    /// Takes over what the listing reported of the socket before its first record.
    pub fn inherit(&mut self, seed: Self) {
        self.cookie = seed.cookie;
        self.inode = seed.inode;
        self.cgroup = seed.cgroup;
        self.closer = seed.closer;
        self.continuity = seed.continuity;
    }

    /// Stores a record's sample for the next comparison, unless it is older than the stored one.
    pub fn advance(&mut self, record: &Record, hz: u32) {
        if record.after.time >= self.last_seen {
            self.continuity = Some(Continuity::after(record, self.continuity, hz));
            self.own = Own::of(&record.settings);
        }
    }

    /// Stores what a later record may lack: an orphan has no inode.
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
            settled: record.id.orphan || record.id.state == state::CLOSE,
        }
    }
}

/// A hash that distinguishes connections.
fn connection(id: &Identity) -> u32 {
    let hash = FxBuildHasher.hash_one((id.netns, id.local, id.peer, id.local_port, id.peer_port));
    (hash >> 32) as u32
}
