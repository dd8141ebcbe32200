//! # Changed sysctls
//!
//! Every record contains the keepalive sysctls of its socket's namespace as they were when it was made, and
//! a live session reads those of one namespace itself. Compared per namespace they show that one was changed.
//!
//! The inode number of a namespace that has ended is given to a new one at once. Values of a namespace
//! are therefore compared only as long as a socket of it that is known since before holds it.

use std::collections::BTreeSet;

use keepalive_ebpf::Settings;
use rustc_hash::FxHashMap;
use strum::IntoEnumIterator;

use super::event::{Sysctl, Sysctls};

/// Namespaces that are remembered; with more, all are forgotten and begin anew.
const NAMESPACES: usize = 1 << 12;

/// The values of one namespace: jiffies and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    pub time: u32,
    pub interval: u32,
    pub probes: u32,
    pub retries2: u32,
}

impl Values {
    /// The values in a record; `None` if it does not contain them.
    pub fn of(settings: &Settings) -> Option<Self> {
        let values = Self {
            time: settings.sysctl_time,
            interval: settings.sysctl_interval,
            probes: settings.sysctl_probes,
            retries2: settings.sysctl_retries2,
        };
        (settings.sysctl_interval != 0 && settings.sysctl_probes != 0).then_some(values)
    }

    /// The values in /proc/sys.
    pub fn polled(sysctls: &Sysctls, hz: u32) -> Self {
        let jiffies = |ms: u64| u32::try_from(ms / 1000 * u64::from(hz)).unwrap_or(u32::MAX);
        Self {
            time: jiffies(sysctls.time_ms),
            interval: jiffies(sysctls.interval_ms),
            probes: sysctls.probes,
            retries2: sysctls.retries2,
        }
    }

    /// As /proc/sys shows it: durations in seconds (`proc_dointvec_jiffies`).
    fn at(&self, sysctl: Sysctl, hz: u32) -> u64 {
        u64::from(match sysctl {
            Sysctl::TcpKeepaliveTime => self.time / hz,
            Sysctl::TcpKeepaliveIntvl => self.interval / hz,
            Sysctl::TcpKeepaliveProbes => self.probes,
            Sysctl::TcpRetries2 => self.retries2,
        })
    }
}

/// Values, and when they were last seen, CLOCK_MONOTONIC, nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    values: Values,
    time: u64,
}

#[derive(Clone, Copy, Debug)]
struct Namespace {
    now: Seen,
    /// Other values, seen before, of a namespace that may have been another one with the same inode number.
    before: Option<Seen>,
    /// The last values before a change that was not reported yet.
    unreported: Option<Seen>,
}

/// A sysctl that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub netns: u32,
    pub sysctl: Sysctl,
    pub old: u64,
    pub new: u64,
    /// When the old value was last seen, CLOCK_MONOTONIC, nanoseconds.
    pub since: u64,
}

/// The values of all namespaces.
#[derive(Default)]
pub struct SysctlWatch {
    namespaces: FxHashMap<u32, Namespace>,
    /// The namespaces with an unreported change.
    changed: BTreeSet<u32>,
}

impl SysctlWatch {
    /// Takes the values that a namespace had at this time. `held_since` is asked only if they differ: since
    /// when it is known to be the same namespace, CLOCK_MONOTONIC, if that is known.
    pub fn observe(
        &mut self,
        netns: u32,
        values: Values,
        time: u64,
        held_since: impl FnOnce() -> Option<u64>,
    ) {
        let now = Seen { values, time };
        if self.namespaces.len() >= NAMESPACES && !self.namespaces.contains_key(&netns) {
            self.namespaces.clear();
            self.changed.clear();
        }
        let namespace = self.namespaces.entry(netns).or_insert(Namespace {
            now,
            before: None,
            unreported: None,
        });
        // Records of several CPUs may be out of order.
        if time <= namespace.now.time {
            return;
        }
        let is_same = namespace.now.values == values;
        if is_same && namespace.before.is_none() {
            namespace.now.time = time;
            return;
        }
        let held = held_since();
        let is_held = |seen: &Seen| held.is_some_and(|held| held <= seen.time);
        let older = namespace.before.filter(is_held);
        let newer = Some(namespace.now).filter(|seen| !is_same && is_held(seen));
        match newer.or(older).filter(|old| old.values != values) {
            Some(old) => {
                namespace.unreported.get_or_insert(old);
                namespace.before = None;
                self.changed.insert(netns);
            }
            None if !is_same => namespace.before = Some(namespace.now),
            None => {}
        }
        namespace.now = now;
    }

    /// Returns the changes since the last call: of several of one sysctl the first old and the last new value.
    pub fn take_changes(&mut self, hz: u32) -> Vec<Changed> {
        let mut changes = Vec::new();
        for netns in std::mem::take(&mut self.changed) {
            let Some(namespace) = self.namespaces.get_mut(&netns) else {
                continue;
            };
            let Some(before) = namespace.unreported.take() else {
                continue;
            };
            changes.extend(Sysctl::iter().filter_map(|sysctl| {
                let old = before.values.at(sysctl, hz);
                let new = namespace.now.values.at(sysctl, hz);
                (old != new).then_some(Changed {
                    netns,
                    sysctl,
                    old,
                    new,
                    since: before.time,
                })
            }));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u32 = 250;

    fn values(time: u32, probes: u32) -> Values {
        Values {
            time: time * HZ,
            interval: 75 * HZ,
            probes,
            retries2: 15,
        }
    }

    fn changes(watch: &mut SysctlWatch) -> Vec<(Sysctl, u64, u64, u64)> {
        let changes = watch.take_changes(HZ).into_iter();
        changes
            .map(|it| (it.sysctl, it.old, it.new, it.since))
            .collect()
    }

    #[test]
    fn a_change_is_reported_once() {
        let mut watch = SysctlWatch::default();
        let held = || Some(0);
        watch.observe(7, values(7200, 9), 10, || panic!("nothing to compare"));
        watch.observe(7, values(7200, 9), 20, || panic!("no difference"));
        assert!(changes(&mut watch).is_empty());
        watch.observe(7, values(600, 5), 30, held);
        // A record from before the change that arrives late, and another namespace.
        watch.observe(7, values(7200, 9), 25, held);
        watch.observe(8, values(7200, 9), 31, held);
        let time = (Sysctl::TcpKeepaliveTime, 7200, 600, 20);
        let probes = (Sysctl::TcpKeepaliveProbes, 9, 5, 20);
        assert_eq!(changes(&mut watch), [time, probes]);
        assert!(changes(&mut watch).is_empty());
        // Two changes between two reports are one, and none if the value is the old one.
        watch.observe(7, values(60, 5), 40, held);
        watch.observe(7, values(30, 5), 50, held);
        let time = (Sysctl::TcpKeepaliveTime, 600, 30, 30);
        assert_eq!(changes(&mut watch), [time]);
        watch.observe(7, values(60, 5), 60, held);
        watch.observe(7, values(30, 5), 70, held);
        assert!(changes(&mut watch).is_empty());
    }

    /// The inode number of a namespace that has ended is that of a new one.
    #[test]
    fn another_namespace_is_not_a_change() {
        let mut watch = SysctlWatch::default();
        watch.observe(7, values(7200, 9), 10, || None);
        for (time, since) in [(20, Some(15)), (30, Some(15)), (40, Some(39)), (50, None)] {
            watch.observe(7, values(60, 9), time, || since);
        }
        assert!(changes(&mut watch).is_empty());
        // It is changed later; the socket is known since before.
        watch.observe(7, values(5, 9), 60, || Some(39));
        let time = (Sysctl::TcpKeepaliveTime, 60, 5, 50);
        assert_eq!(changes(&mut watch), [time]);
    }

    /// A new socket shows the new value first, an older one proves that the namespace is the same.
    #[test]
    fn an_older_socket_proves_the_change() {
        let mut watch = SysctlWatch::default();
        watch.observe(7, values(7200, 9), 10, || None);
        watch.observe(7, values(60, 9), 20, || Some(15));
        assert!(changes(&mut watch).is_empty());
        watch.observe(7, values(60, 9), 30, || Some(5));
        let time = (Sysctl::TcpKeepaliveTime, 7200, 60, 10);
        assert_eq!(changes(&mut watch), [time]);
    }

    #[test]
    fn records_without_values_and_many_namespaces() {
        assert_eq!(Values::of(&Settings::default()), None);
        let mut watch = SysctlWatch::default();
        for netns in 0..=NAMESPACES as u32 {
            watch.observe(netns, values(1, 1), 1, || None);
        }
        assert_eq!(watch.namespaces.len(), 1);
    }
}
