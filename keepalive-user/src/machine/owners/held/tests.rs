//! How owners are learned, verified and evicted, with a made-up /proc.

use super::*;

/// /proc as a table: the single holder of each socket, and the names.
#[derive(Default)]
struct Fake {
    held: Vec<Descriptor>,
    names: Vec<(u32, &'static str)>,
    denied: bool,
    lookups: usize,
}

impl Processes for Fake {
    fn descriptor(&mut self, descriptor: &Descriptor) -> Holding {
        self.lookups += 1;
        match self.held.contains(descriptor) {
            _ if self.denied => Holding::Denied,
            true => Holding::Held,
            false => Holding::Gone,
        }
    }

    fn name(&mut self, pid: u32) -> Option<String> {
        self.lookups += 1;
        let name = self.names.iter().find(|name| name.0 == pid);
        name.map(|name| name.1.to_owned())
    }
}

const INODE: u64 = 77;
const PARENT: u32 = 10;
const CHILD: u32 = 11;

fn process(pid: u32, comm: &str) -> Process {
    let comm = comm.to_owned();
    Process { pid, comm }
}

fn held(pid: u32, fd: RawFd) -> Descriptor {
    let inode = INODE;
    Descriptor { inode, pid, fd }
}

fn pass(started: Nanoseconds, descriptors: &[Descriptor]) -> Arc<DescriptorSnapshot> {
    let mut snapshot = DescriptorSnapshot::begin(started);
    descriptors.iter().for_each(|found| snapshot.add(*found));
    Arc::new(snapshot.finish())
}

fn fake() -> Fake {
    Fake {
        names: vec![(PARENT, "postgres"), (CHILD, "postgres: child")],
        ..Fake::default()
    }
}

fn owner(owners: &Held) -> Option<u32> {
    owners.process(INODE).map(|process| process.pid)
}

#[test]
fn a_fork_moves_the_socket_to_the_child() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    let want = owners.acted(INODE, process(PARENT, "postgres"), SECOND);
    // It is checked soon, without an event.
    let due = SECOND + VERIFY_AFTER;
    assert_eq!(
        want,
        Some(Want {
            pid: Some(PARENT),
            due
        })
    );
    assert_eq!(owners.resolve(INODE, SECOND, false, &mut proc), None);
    assert_eq!(owner(&owners), Some(PARENT));
    let scan = Scan {
        pid: PARENT,
        started: due,
        missing: vec![INODE],
        ..Scan::default()
    };
    owners.take_scan(&scan, &mut proc, due);
    owners.resolve(INODE, due, false, &mut proc);
    assert_eq!(owner(&owners), None);
    let snapshot = pass(due + 1, &[held(CHILD, 9)]);
    owners.take_snapshot(snapshot);
    let want = owners.resolve(INODE, due + 2, false, &mut proc);
    assert_eq!((owner(&owners), want), (Some(CHILD), None));
}

#[test]
fn a_known_descriptor_is_checked_when_it_is_old() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    owners.take_snapshot(pass(SECOND, &[held(PARENT, 5)]));
    proc.held = vec![held(PARENT, 5)];
    assert_eq!(owners.resolve(INODE, SECOND, false, &mut proc), None);
    let named = proc.lookups;
    assert_eq!(named, 1);
    // It was checked recently.
    owners.resolve(INODE, SECOND + FRESH - 1, false, &mut proc);
    assert_eq!(proc.lookups, named);
    // The descriptor, and the name.
    assert_eq!(
        owners.resolve(INODE, SECOND + FRESH, false, &mut proc),
        None
    );
    assert_eq!(proc.lookups, named + 2);
    // It was passed to another process: unresolved, and requested.
    proc.held = vec![held(CHILD, 5)];
    let later = 3 * SECOND;
    let want = owners.resolve(INODE, later, false, &mut proc);
    let expected = Want {
        pid: None,
        due: later,
    };
    assert_eq!((owner(&owners), want), (None, Some(expected)));
}

/// Where /proc is not readable, the next pass decides; until then the owner stays.
#[test]
fn an_unreadable_descriptor_is_left_to_the_pass() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    proc.denied = true;
    owners.take_snapshot(pass(SECOND, &[held(PARENT, 5)]));
    let want = owners.resolve(INODE, 3 * SECOND, false, &mut proc);
    assert_eq!(owner(&owners), Some(PARENT));
    assert_eq!(want.and_then(|want| want.pid), Some(PARENT));
    owners.take_snapshot(pass(4 * SECOND, &[]));
    owners.resolve(INODE, 4 * SECOND, false, &mut proc);
    assert_eq!(owner(&owners), None);
}

#[test]
fn lookups_per_second_are_limited() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    let many = 10 * LOOKUPS;
    let all: Vec<Descriptor> = (1..=many)
        .map(|inode| Descriptor {
            inode,
            ..held(PARENT, 5)
        })
        .collect();
    owners.take_snapshot(pass(SECOND, &all));
    proc.held = all;
    let mut asked = 0;
    for inode in 1..=many {
        let want = owners.resolve(inode, 3 * SECOND, false, &mut proc);
        asked += u64::from(want.is_some());
        assert!(owners.process(inode).is_some());
    }
    assert!(proc.lookups as u64 <= LOOKUPS, "{}", proc.lookups);
    assert!(asked >= many - LOOKUPS, "{asked}");
}

#[test]
fn a_socket_without_a_process_is_requested_ever_more_rarely() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    let mut passes = 0;
    let mut asked = false;
    // An event each tenth of a second for an hour, and a pass whenever one is asked for.
    for tick in 0..36_000 {
        let now = SECOND + tick * SECOND / 10;
        if asked {
            owners.take_snapshot(pass(now, &[]));
            passes += 1;
        }
        asked = owners.resolve(INODE, now, false, &mut proc).is_some();
    }
    assert!((50..=70).contains(&passes), "{passes}");
}

#[test]
fn a_dead_socket_keeps_its_last_holder() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    owners.acted(INODE, process(PARENT, "postgres"), SECOND);
    owners.take_snapshot(pass(9 * SECOND, &[]));
    assert_eq!(owners.resolve(INODE, 9 * SECOND, true, &mut proc), None);
    assert_eq!(owner(&owners), Some(PARENT));
}

/// A record may be read long after it was written, when its socket is closed or handed over already.
#[test]
fn later_scans_and_passes_do_not_change_older_events() {
    let later = 2 * SECOND;
    let missing = Scan {
        pid: PARENT,
        started: later,
        missing: vec![INODE],
        ..Scan::default()
    };
    let handed_over = [held(CHILD, 9)];
    for (by_scan, holders, after) in [
        (true, &[][..], None),
        (false, &[][..], None),
        (false, &handed_over[..], Some(CHILD)),
    ] {
        let (mut owners, mut proc) = (Held::new(None), fake());
        owners.acted(INODE, process(PARENT, "postgres"), SECOND);
        if by_scan {
            owners.take_scan(&missing, &mut proc, SECOND);
        } else {
            owners.take_snapshot(pass(later, holders));
        }
        for (time, expected) in [(later - 1, Some(PARENT)), (later, after)] {
            owners.resolve(INODE, time, false, &mut proc);
            assert_eq!(owner(&owners), expected);
        }
    }
    // The close is older than the scan but read after it: the process was the last holder.
    let (mut owners, mut proc) = (Held::new(None), fake());
    owners.acted(INODE, process(PARENT, "postgres"), SECOND);
    owners.take_scan(&missing, &mut proc, SECOND);
    owners.acted(INODE, process(PARENT, "postgres"), later - 1);
    owners.resolve(INODE, later, true, &mut proc);
    assert_eq!(owner(&owners), Some(PARENT));
}

#[test]
fn the_requested_process_is_preferred_as_owner() {
    let both = [held(PARENT, 5), held(CHILD, 5)];
    for (preferred, expected) in [(None, PARENT), (Some(CHILD), CHILD), (Some(99), PARENT)] {
        let (mut owners, mut proc) = (Held::new(preferred), fake());
        owners.take_snapshot(pass(SECOND, &both));
        owners.resolve(INODE, SECOND, false, &mut proc);
        assert_eq!(owner(&owners), Some(expected));
        // An action of the other process does not change that.
        owners.acted(INODE, process(PARENT, "postgres"), SECOND);
        assert_eq!(owner(&owners), Some(expected));
    }
}

#[test]
fn an_exec_changes_the_name_of_all_sockets() {
    let (mut owners, mut proc) = (Held::new(None), fake());
    for inode in [1, 2] {
        owners.acted(inode, process(PARENT, "sh"), SECOND);
        owners.resolve(inode, SECOND, false, &mut proc);
        assert_eq!(owners.process(inode).unwrap().comm, "sh");
    }
    for inode in [1, 2] {
        owners.resolve(inode, 3 * SECOND, true, &mut proc);
        assert_eq!(owners.process(inode).unwrap().comm, "postgres");
    }
    // One lookup served both; the last name of an ended process stays.
    assert_eq!(proc.lookups, 1);
    proc.names.clear();
    owners.resolve(1, 6 * SECOND, true, &mut proc);
    assert_eq!(owners.process(1).unwrap().comm, "postgres");
}
