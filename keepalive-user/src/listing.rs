//! # The listing
//!
//! All TCP sockets of one or more network namespaces, as [`Snapshot`]s, whatever source tells
//! of them: the BPF iterator where the kernel allows tracing programs, else sock_diag.

mod diag;
mod netlink;
pub mod owners;
pub mod row;

use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use keepalive_ebpf::Snapshot;
use rustc_hash::{FxHashMap, FxHashSet};

use self::owners::Owners;
use crate::{
    event::{Incomplete, ListSource, RefusedSource, Sysctls},
    exit::{Exit, Refusal},
    namespace::{self, Namespace},
    privileges,
    source::{Kernel, Options, iterator::Iterators, reason::reason, self_test::Connection},
};

/// Ticks per second of what sock_diag tells: milliseconds.
const DIAG_HZ: u32 = 1000;

/// A way to list sockets.
pub struct Lister {
    source: Source,
    /// Whether another source may take its place.
    may_fall_back: bool,
    /// Better sources that were tried.
    pub refused: Vec<RefusedSource>,
}

enum Source {
    Iterators(Iterators),
    SockDiag,
}

/// What was found.
pub struct Listing {
    pub source: ListSource,
    pub sockets: Vec<Snapshot>,
    /// Ticks per second of the snapshots.
    pub hz: u32,
    pub owners: Owners,
    /// By namespace.
    pub sysctls: FxHashMap<u32, Sysctls>,
    pub incomplete: Vec<Incomplete>,
}

impl Lister {
    /// The best source that works, or the one asked for.
    ///
    /// # Errors
    /// Why the one asked for does not work.
    pub fn open(wanted: Option<ListSource>, options: &Options) -> Result<Self> {
        let mut lister = Self {
            source: Source::SockDiag,
            may_fall_back: wanted.is_none(),
            refused: Vec::new(),
        };
        if wanted != Some(ListSource::SockDiag) {
            match Kernel::read(options).and_then(|kernel| Iterators::load(&kernel)) {
                Ok(iterators) => lister.source = Source::Iterators(iterators),
                Err(error) => lister.fall_back(&error)?,
            }
        }
        Ok(lister)
    }

    /// The iterators do not work: says why, or goes on without them.
    fn fall_back(&mut self, error: &anyhow::Error) -> Result<()> {
        let reason = reason(error);
        if self.may_fall_back {
            self.source = Source::SockDiag;
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

    /// Lists the sockets of these namespaces that `wanted` lets through, with their owners unless
    /// these are not asked for.
    pub fn list(
        &mut self,
        namespaces: &[Namespace],
        with_owners: bool,
        wanted: &(impl Fn(&Snapshot) -> bool + Sync),
    ) -> Result<Listing> {
        if let Source::Iterators(iterators) = &mut self.source {
            match by_iterators(iterators, namespaces, with_owners, wanted) {
                Ok(listing) => return Ok(listing),
                Err(error) => self.fall_back(&error)?,
            }
        }
        by_sock_diag(namespaces, with_owners, wanted)
    }
}

/// The kernel walks, and proves with a connection of our own that it reads sockets right.
fn by_iterators(
    iterators: &mut Iterators,
    namespaces: &[Namespace],
    with_owners: bool,
    wanted: &(impl Fn(&Snapshot) -> bool + Sync),
) -> Result<Listing> {
    let own = Connection::open(|_| Ok(())).or_else(|here| {
        log::debug!("self-test: {here:#}; trying in a network namespace of its own");
        Connection::open_elsewhere().context(here)
    })?;
    // Both walks at once: neither needs the other.
    let files = with_owners.then(|| iterators.descriptors()).transpose()?;
    let own_fd = own.as_raw_fd();
    let (walked, owners) = std::thread::scope(|scope| {
        let owners = scope.spawn(move || files.map(|walk| Owners::of_kernel(walk, own_fd)));
        let walked = walk_sockets(iterators, namespaces, &own, wanted);
        (walked, owners.join())
    });
    let (found, hz) = walked?;
    let owners = match owners.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Some(owners) => owners?.unwrap_or_else(Owners::of_proc),
        None => Owners::default(),
    };
    let incomplete = without_owner(&found.sockets, &owners, with_owners);
    Ok(found.listing(
        ListSource::Iterator,
        hz,
        owners,
        incomplete.into_iter().collect(),
    ))
}

/// All wanted sockets but the connection of our own, which tells the kernel's tick.
fn walk_sockets(
    iterators: &mut Iterators,
    namespaces: &[Namespace],
    own: &Connection,
    wanted: impl Fn(&Snapshot) -> bool + Sync,
) -> Result<(Found, u32)> {
    let mut found = Found::default();
    let mut tested = None;
    let mut walk = |namespace: &Namespace, wanted: &(dyn Fn(&Snapshot) -> bool + Sync)| {
        found.note_sysctls(namespace);
        namespace.within(|| {
            iterators.sockets()?.each(|socket| {
                if own.is_tested(&socket.id) {
                    tested = Some(*socket);
                } else if !own.has(&socket.id) && wanted(socket) {
                    found.add(socket);
                }
            })
        })
    };
    for namespace in namespaces {
        walk(namespace, &wanted)?;
    }
    if !namespaces
        .iter()
        .any(|namespace| namespace.inode == own.namespace.inode)
    {
        walk(&own.namespace, &|_| false)?;
    }
    let tested = tested.context("the iterator never saw the socket of the self-test")?;
    let hz = own.check(&tested.id, &tested.settings, &tested.numbers)?;
    Ok((found, hz))
}

/// The kernel's diag interface lists, and copies of the sockets tell their settings.
fn by_sock_diag(
    namespaces: &[Namespace],
    with_owners: bool,
    wanted: &(impl Fn(&Snapshot) -> bool + Sync),
) -> Result<Listing> {
    let mut found = Found::default();
    let admin = privileges::admin();
    let mut unsound = 0;
    for namespace in namespaces {
        found.note_sysctls(namespace);
        let sound = namespace.within(|| diag::dump(namespace.inode, admin, &mut found, wanted))?;
        unsound += u64::from(!sound);
    }
    let owners = if with_owners {
        Owners::of_proc()
    } else {
        Owners::default()
    };
    let unknown = diag::settings(&mut found.sockets, &owners, &found.sysctls);
    let incomplete = [
        (unsound > 0).then(|| Incomplete {
            what: "sockets".to_owned(),
            count: unsound,
            reason: "in this many namespaces the list changed while the kernel told it".to_owned(),
        }),
        (unknown > 0).then(|| Incomplete {
            what: "settings".to_owned(),
            count: unknown,
            reason: unknown_settings(with_owners),
        }),
        without_owner(&found.sockets, &owners, with_owners),
    ];
    let incomplete = incomplete.into_iter().flatten().collect();
    Ok(found.listing(ListSource::SockDiag, DIAG_HZ, owners, incomplete))
}

/// Sockets that have a file, but nobody we know has it open.
fn without_owner(sockets: &[Snapshot], owners: &Owners, with_owners: bool) -> Option<Incomplete> {
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
        return "without owners (--no-owner) sockets cannot be asked for their settings".to_owned();
    }
    format!(
        "sock_diag tells no settings, and these sockets could not be copied to ask them (orphans, \
         not yet accepted, MPTCP, or of processes we may not look into){}",
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

/// What a source has told so far.
#[derive(Default)]
struct Found {
    sockets: Vec<Snapshot>,
    /// The kernel may tell of a socket twice if the list changes meanwhile.
    seen: FxHashSet<u64>,
    sysctls: FxHashMap<u32, Sysctls>,
}

impl Found {
    fn add(&mut self, socket: &Snapshot) {
        if self.seen.insert(name(socket)) {
            self.sockets.push(*socket);
        }
    }

    fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Back to when there were so many.
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

    fn listing(
        self,
        source: ListSource,
        hz: u32,
        owners: Owners,
        incomplete: Vec<Incomplete>,
    ) -> Listing {
        Listing {
            source,
            sockets: self.sockets,
            hz,
            owners,
            sysctls: self.sysctls,
            incomplete,
        }
    }
}

/// What tells a socket from all others. Its address is better than its cookie, which is made only
/// when somebody asks.
fn name(socket: &Snapshot) -> u64 {
    match socket.id.sk {
        0 => socket.id.cookie,
        address => address,
    }
}
