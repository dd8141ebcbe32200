//! Lists sockets by BPF iterator: the kernel walks them.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use anyhow::{Context, Result};
use keepalive_ebpf::Snapshot;
use rustc_hash::FxHashMap;

use super::{Holders, Listing, each_namespace, found::Found, without_owner};
use crate::{
    core::event::{Incomplete, ListSource, Sysctls},
    machine::{
        bpf::{
            iterator::Iterators,
            self_test::{self, Connection},
        },
        namespace::{self, Namespace},
    },
};

/// The kernel walks its sockets; a connection of our own verifies that the program reads them correctly.
pub fn list(
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
