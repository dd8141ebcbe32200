//! # The listing
//!
//! All TCP sockets of one or more network namespaces, as [`Snapshot`]s, from one of two sources: the BPF
//! iterator where the kernel allows tracing programs, else sock_diag.

mod diag;
pub mod holders;
mod netlink;

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Identity, Snapshot, SnapshotKind};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::mm::{Advice, madvise};

use self::holders::Holders;
pub use self::netlink::{Moment, sockets_of};
use crate::{
    core::{
        clock::Clock,
        event::{Incomplete, ListSource, ListedSocket, RefusedSource, Sysctls},
        exit::{Exit, Refusal},
        rows,
    },
    machine::{
        bpf::{
            Options,
            iterator::Iterators,
            reason::reason,
            self_test::{self, Connection},
        },
        namespace::{self, Namespace},
        privileges,
        sandbox::Needs,
    },
};

/// Ticks per second in the snapshots of sock_diag: milliseconds.
const DIAG_HZ: u32 = 1000;

/// A way to list sockets.
pub struct Lister {
    source: SnapshotSource,
    /// Whether another source may replace it.
    may_fall_back: bool,
    /// Better sources that were tried.
    pub refused: Vec<RefusedSource>,
}

enum SnapshotSource {
    Iterators(Iterators),
    SockDiag,
}

/// The sockets, and what is incomplete.
pub struct Listing {
    pub source: ListSource,
    pub sockets: Vec<Snapshot>,
    /// Ticks per second of the snapshots.
    pub hz: u32,
    pub owners: Holders,
    /// By namespace.
    pub sysctls: FxHashMap<u32, Sysctls>,
    pub incomplete: Vec<Incomplete>,
}

impl Listing {
    /// A socket of the listing as a row, with the processes that hold it; `id` is its number in the output.
    pub fn row(&self, socket: &Snapshot, id: u64, clock: &Clock) -> ListedSocket {
        let mut row = rows::row(socket, id, self.hz, clock);
        (row.process, row.pids) = self.owners.processes(socket.id.inode);
        row
    }
}

impl Lister {
    /// Opens the best source that works, or the requested one.
    ///
    /// # Errors
    /// If the requested source does not work.
    pub fn open(wanted: Option<ListSource>, options: &Options) -> Result<Self> {
        let mut lister = Self {
            source: SnapshotSource::SockDiag,
            may_fall_back: wanted.is_none(),
            refused: Vec::new(),
        };
        if wanted != Some(ListSource::SockDiag) {
            match Iterators::open(options) {
                Ok(iterators) => lister.source = SnapshotSource::Iterators(iterators),
                Err(error) => lister.fall_back(&error)?,
            }
        }
        Ok(lister)
    }

    /// The rights that listing again needs, here or in other network namespaces.
    pub fn needs(&self, elsewhere: bool) -> Needs {
        Needs {
            namespaces: elsewhere,
            sock_diag: matches!(self.source, SnapshotSource::SockDiag),
            ..Needs::listing()
        }
    }

    /// The iterators do not work: reports the reason, or continues with sock_diag.
    fn fall_back(&mut self, error: &anyhow::Error) -> Result<()> {
        let reason = reason(error);
        if self.may_fall_back {
            self.source = SnapshotSource::SockDiag;
            self.refused.push(RefusedSource {
                source: ListSource::Iterator,
                reason,
            });
            return Ok(());
        }
        let missing = privileges::missing();
        Err(if missing.is_empty() {
            Refusal::new(Exit::Unsupported, reason)
        } else {
            Refusal::new(Exit::NotPermitted, privileges::remedy(&missing))
        })
        .context("cannot list by BPF iterator")
    }

    /// Lists the sockets of these namespaces that `wanted` admits, with their owners unless these are not
    /// requested.
    pub fn list(
        &mut self,
        namespaces: &[Namespace],
        with_owners: bool,
        wanted: &(impl Fn(&Snapshot) -> bool + Sync),
    ) -> Result<Listing> {
        if let SnapshotSource::Iterators(iterators) = &mut self.source {
            match by_iterators(iterators, namespaces, with_owners, wanted) {
                Ok(listing) => return Ok(listing),
                Err(error) => self.fall_back(&error)?,
            }
        }
        by_sock_diag(namespaces, with_owners, wanted)
    }
}

/// The kernel walks its sockets; a connection of our own verifies that the program reads them correctly.
fn by_iterators(
    iterators: &mut Iterators,
    namespaces: &[Namespace],
    with_owners: bool,
    wanted: &(impl Fn(&Snapshot) -> bool + Sync),
) -> Result<Listing> {
    let own = Connection::open(|_, _| Ok(())).or_else(|here| {
        log::debug!("self-test: {here:#}; trying in a network namespace of its own");
        Connection::open_elsewhere().context(here)
    })?;
    // Both walks run in parallel: neither needs the other.
    let files = with_owners.then(|| iterators.descriptors()).transpose()?;
    let own_file = own.file();
    let (walked, owners) = thread::scope(|scope| {
        let owners = scope.spawn(move || files.map(|walk| Holders::of_kernel(walk, own_file)));
        let walked = walk_sockets(iterators, namespaces, &own, wanted);
        (walked, owners.join())
    });
    let (mut found, hz) = walked?;
    let owners = match owners.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Some(owners) => owners?.unwrap_or_else(Holders::of_proc),
        None => Holders::default(),
    };
    let unknown = without_owner(&found.sockets, &owners, with_owners);
    found.incomplete.extend(unknown);
    Ok(found.listing(ListSource::Iterator, hz, owners))
}

/// All wanted sockets without the connection of our own, which gives the kernel's tick. One thread reads
/// the walk, and another one gathers the sockets.
fn walk_sockets(
    iterators: &mut Iterators,
    namespaces: &[Namespace],
    own: &Connection,
    wanted: &(impl Fn(&Snapshot) -> bool + Sync),
) -> Result<(Found, u32)> {
    let listed: Vec<u32> = namespaces.iter().map(|listed| listed.inode).collect();
    let wanted = |socket: &Snapshot| {
        // The self-test may be in another namespace.
        listed.contains(&socket.id.netns) && wanted(socket)
    };
    let (batches, arriving) = sync_channel::<Vec<Snapshot>>(AHEAD);
    let (walked, gathered) = thread::scope(|scope| {
        let gathering = scope.spawn(|| gather(arriving, own, wanted));
        let walked = walk(iterators, namespaces, own, &batches);
        drop(batches);
        (walked, gathering.join())
    });
    let (mut found, tested) = gathered.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    (found.incomplete, found.sysctls) = walked?;
    let tested = tested.context("the iterator never saw the socket of the self-test")?;
    let hz = own.check(&tested, &iterators.layout)?;
    Ok((found, hz))
}

/// The most batches of sockets in the channel.
const AHEAD: usize = 64;

/// Sends all sockets of the namespaces, and of that of the self-test. Returns the failures, and the
/// namespaces' sysctls.
fn walk(
    iterators: &mut Iterators,
    namespaces: &[Namespace],
    own: &Connection,
    batches: &SyncSender<Vec<Snapshot>>,
) -> Result<(Vec<Incomplete>, FxHashMap<u32, Sysctls>)> {
    let mut defaults = FxHashMap::default();
    let mut walk = |namespace: &Namespace| {
        namespace.within(|| {
            defaults.extend(namespace::sysctls().map(|sysctls| (namespace.inode, sysctls)));
            if !namespace::may_have_tcp() {
                return Ok(());
            }
            iterators.sockets()?.batches(|batch| {
                // The receiver runs until the sender is dropped.
                let _ = batches.send(batch.to_vec());
            })
        })
    };
    let failed = each_namespace(namespaces, &mut walk)?;
    let tested = own.namespace.inode;
    if !namespaces.iter().any(|listed| listed.inode == tested) {
        walk(&own.namespace)?;
    }
    Ok((failed, defaults))
}

/// Gathers the wanted sockets, and the socket of the self-test.
fn gather(
    batches: Receiver<Vec<Snapshot>>,
    own: &Connection,
    wanted: impl Fn(&Snapshot) -> bool,
) -> (Found, Option<Snapshot>) {
    let mut found = Found::with_room();
    let mut tested = None;
    for socket in batches.iter().flatten() {
        if own.is_tested(&socket.id) {
            tested = Some(socket);
        }
        if self_test::is_of_a_self_test(&socket.id, &socket.settings) {
            found.leave_out(&socket);
        } else if wanted(&socket) {
            found.add(&socket);
        }
    }
    (found, tested)
}

/// Runs `work` in each namespace; returns the failures, or the first error if all failed.
fn each_namespace(
    namespaces: &[Namespace],
    mut work: impl FnMut(&Namespace) -> Result<()>,
) -> Result<Vec<Incomplete>> {
    let mut failed = Vec::new();
    for namespace in namespaces {
        match work(namespace) {
            Ok(()) => {}
            Err(error) => failed.push(error),
        }
    }
    if failed.len() == namespaces.len()
        && let Some(first) = failed.drain(..).next()
    {
        return Err(first);
    }
    Ok(merged(failed.iter().map(|error| format!("{error:#}"))))
}

/// One entry for each reason.
fn merged(reasons: impl Iterator<Item = String>) -> Vec<Incomplete> {
    let mut counts = BTreeMap::<String, u64>::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let incomplete = counts.into_iter().map(|(reason, count)| Incomplete {
        what: "namespace".to_owned(),
        count,
        reason,
    });
    incomplete.collect()
}

/// Lists sockets by sock_diag, and reads their settings from copies.
fn by_sock_diag(
    namespaces: &[Namespace],
    with_owners: bool,
    wanted: &(impl Fn(&Snapshot) -> bool + Sync),
) -> Result<Listing> {
    let mut found = Found::default();
    let mut unsound = 0;
    let failed = each_namespace(namespaces, |namespace| {
        let sound = namespace.within(|| {
            Ok(!namespace::may_have_tcp() || diag::dump(namespace.inode, &mut found, wanted)?)
        })?;
        unsound += u64::from(!sound);
        Ok(())
    })?;
    found.incomplete = failed;
    for namespace in namespaces {
        found.note_sysctls(namespace);
    }
    let owners = if with_owners {
        Holders::of_proc()
    } else {
        Holders::default()
    };
    let unknown = diag::settings(&mut found.sockets, &owners, &found.sysctls);
    let incomplete = |what: &str, count: u64, reason: String| {
        (count > 0).then(|| Incomplete {
            what: what.to_owned(),
            count,
            reason,
        })
    };
    let incomplete = [
        incomplete(
            "sockets",
            unsound,
            "the list of sockets changed while it was read, in this many namespaces".to_owned(),
        ),
        incomplete("settings", unknown.settings, unknown_settings(with_owners)),
        incomplete(
            "settings",
            unknown.too_many_files,
            "too many open files (ulimit -n) to copy a socket and read its settings".to_owned(),
        ),
        without_owner(&found.sockets, &owners, with_owners),
    ];
    found.incomplete.extend(incomplete.into_iter().flatten());
    Ok(found.listing(ListSource::SockDiag, DIAG_HZ, owners))
}

/// The sockets that have a file, but no process that is known to hold it.
fn without_owner(sockets: &[Snapshot], owners: &Holders, with_owners: bool) -> Option<Incomplete> {
    let inodes = sockets.iter().map(|socket| socket.id.inode);
    let unknown = inodes.filter(|&inode| inode != 0 && owners.of(inode).is_empty());
    let count = if with_owners {
        unknown.count() as u64
    } else {
        0
    };
    (count > 0).then(|| Incomplete {
        what: "owner".to_owned(),
        count,
        reason: unknown_owners(owners.denied),
    })
}

fn unknown_settings(with_owners: bool) -> String {
    if !with_owners {
        return "without owners (--no-owner) the settings of sockets cannot be read".to_owned();
    }
    format!(
        "sock_diag reports no settings, and these sockets could not be copied to read them (orphans, \
         not yet accepted, MPTCP, or of processes whose files are not accessible){}",
        privileges::hint()
    )
}

fn unknown_owners(denied: u64) -> String {
    if denied > 0 {
        format!(
            "{denied} processes do not show their files{}",
            privileges::hint()
        )
    } else {
        "held by the kernel, or by processes that this /proc does not show (hidepid, pid namespaces)"
            .to_owned()
    }
}

/// The sockets of a source so far.
#[derive(Default)]
struct Found {
    sockets: Vec<Snapshot>,
    /// The kernel may return a socket twice if the list changes meanwhile; and the memory of a closed socket
    /// may be reused for another. The last index of each name.
    seen: FxHashMap<u64, u32>,
    /// Namespaces and ports at which self-tests listen.
    left_out: FxHashSet<(u32, u16)>,
    sysctls: FxHashMap<u32, Sysctls>,
    incomplete: Vec<Incomplete>,
}

/// The initial capacity in sockets; only used pages take memory.
const ROOM: usize = 1 << 17;

impl Found {
    /// For many sockets, which come fast: with pages of 4 KiB, page faults would take as long as a quarter of
    /// the kernel's walk.
    fn with_room() -> Self {
        let sockets: Vec<Snapshot> = Vec::with_capacity(ROOM);
        // The smallest page there is; with larger ones, or without huge ones, the kernel refuses (EINVAL).
        const PAGE: usize = 4096;
        let start = sockets.as_ptr().cast_mut().cast::<u8>();
        let skipped = start.align_offset(PAGE);
        let length = ROOM * size_of::<Snapshot>() - PAGE;
        // SAFETY: from the first page boundary in the allocation, which is less than a page after its
        // beginning, so that the range is within it. MADV_HUGEPAGE only sets VM_HUGEPAGE on the mapping
        // (`hugepage_madvise`): no contents change, nothing is unmapped.
        let _ = unsafe {
            madvise(
                start.wrapping_add(skipped).cast(),
                length,
                Advice::LinuxHugepage,
            )
        };
        Self {
            sockets,
            ..Self::default()
        }
    }

    fn add(&mut self, socket: &Snapshot) {
        let place = self.sockets.len() as u32;
        if let Some(before) = self.seen.insert(name(socket), place)
            && let Some(other) = self.sockets.get(before as usize)
            && is_same(&other.id, &socket.id)
        {
            self.seen.insert(name(socket), before);
            return;
        }
        self.sockets.push(*socket);
    }

    /// Leaves out a socket of a self-test, ours or of another instance. A socket that connects to it has no
    /// settings until the handshake is done.
    fn leave_out(&mut self, socket: &Snapshot) {
        self.left_out
            .insert((socket.id.netns, socket.id.local_port));
    }

    fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Truncates the list to this length.
    fn forget_since(&mut self, length: usize) {
        for socket in self.sockets.drain(length..) {
            self.seen.remove(&name(&socket));
        }
    }

    fn note_sysctls(&mut self, namespace: &Namespace) {
        if let Ok(Some(sysctls)) = namespace.within(|| Ok(namespace::sysctls())) {
            self.sysctls.insert(namespace.inode, sysctls);
        }
    }

    fn listing(mut self, source: ListSource, hz: u32, owners: Holders) -> Listing {
        let left_out = self.left_out;
        self.sockets.retain(|socket| {
            socket.kind != SnapshotKind::Request
                || !self_test::is_on_loopback(&socket.id)
                || !left_out.contains(&(socket.id.netns, socket.id.local_port))
        });
        Listing {
            source,
            sockets: self.sockets,
            hz,
            owners,
            sysctls: self.sysctls,
            incomplete: self.incomplete,
        }
    }
}

/// Identifies a socket among all others at one moment: its address, for the kernel creates the cookie only
/// on request.
fn name(socket: &Snapshot) -> u64 {
    match socket.id.sk {
        0 => socket.id.cookie,
        address => address,
    }
}

/// Whether two records with the same name are of the same socket.
fn is_same(one: &Identity, other: &Identity) -> bool {
    let who = |id: &Identity| (id.netns, id.local_port, id.peer_port, id.local, id.peer);
    who(one) == who(other)
}

#[cfg(test)]
mod tests;
