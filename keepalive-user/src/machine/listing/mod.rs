//! # The listing
//!
//! All TCP sockets of one or more network namespaces, as [`Snapshot`]s, from one of two sources: the BPF
//! iterator where the kernel allows tracing programs, else sock_diag.

mod diag;
pub mod find;
mod found;
mod holders;
mod netlink;
mod rows;
mod walk;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use keepalive_ebpf::Snapshot;

use self::holders::Holders;
pub use self::{
    netlink::{Moment, sockets_of},
    rows::Listing,
};
use crate::{
    core::{
        event::{Incomplete, IncompletePart, ListSource, RefusedSource},
        exit::{Exit, Refusal},
        neighbours::Neighbours,
    },
    machine::{
        bpf::{Options, iterator::Iterators, reason::reason},
        namespace::Namespace,
        privileges,
        sandbox::Needs,
        syscall,
    },
};

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
            match walk::list(iterators, namespaces, with_owners, wanted) {
                Ok(listing) => return Ok(listing),
                Err(error) => self.fall_back(&error)?,
            }
        }
        diag::list(namespaces, with_owners, wanted)
    }

    /// As [`Lister::list`], with owners, and with the neighbours of each socket, among them the sockets that are not
    /// wanted.
    pub fn list_with_neighbours(
        &mut self,
        namespaces: &[Namespace],
        wanted: &(impl Fn(&Snapshot) -> bool + Sync),
    ) -> Result<Listing> {
        let neighbours = Mutex::new(Neighbours::default());
        let lock = || neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listing = self.list(namespaces, true, &|socket| {
            lock().add(socket);
            wanted(socket)
        })?;
        let mut neighbours = neighbours
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for namespace in namespaces {
            match namespace.within(|| Ok(syscall::addresses()?)) {
                Ok(addresses) => neighbours.add_addresses(namespace.inode, addresses),
                Err(error) => listing.incomplete.push(Incomplete {
                    what: IncompletePart::Namespace,
                    count: 1,
                    reason: format!("its addresses cannot be read: {error:#}"),
                }),
            }
        }
        listing.neighbours = Some(neighbours);
        Ok(listing)
    }
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
        what: IncompletePart::Namespace,
        count,
        reason,
    });
    incomplete.collect()
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
        what: IncompletePart::Owner,
        count,
        reason: unknown_owners(owners.denied),
    })
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

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn a_failing_namespace_does_not_affect_others() {
        let open = || Namespace::current().unwrap();
        let three = [open(), open(), open()];
        let mut calls = 0;
        let mut fail_from = |good: u32| {
            calls = 0;
            each_namespace(&three, |_| {
                calls += 1;
                ensure!(calls <= good, "closed");
                Ok(())
            })
        };
        assert!(fail_from(3).unwrap().is_empty());
        let failed = fail_from(1).unwrap();
        assert_eq!((failed[0].count, &*failed[0].reason), (2, "closed"));
        assert_eq!(fail_from(0).unwrap_err().to_string(), "closed");
        assert!(each_namespace(&[], |_| Ok(())).unwrap().is_empty());
    }
}
