//! Finds the socket that a target names in a listing, and finds it again.

use anyhow::{Result, bail};
use keepalive_ebpf::{Identity, Snapshot, SnapshotKind};

use super::{Lister, Listing};
use crate::{
    core::{
        clock::Clock,
        event::{Incomplete, IncompletePart, ListedSocket, Sysctls},
        filter,
        format::plural,
        kernel::state,
        neighbours::Neighbours,
        target::Target,
    },
    machine::{
        bpf::Options,
        clock,
        namespace::{self, Namespace},
        owners::Cgroups,
        sandbox::Needs,
    },
};

/// A socket, and the data for its explanation.
pub struct Located {
    pub row: ListedSocket,
    pub id: Identity,
    /// The sysctls of its namespace.
    pub sysctls: Option<Sysctls>,
    /// Whether a socket listens on its local port: it was accepted.
    pub is_accepted: bool,
}

/// Lists sockets.
pub struct Finder {
    lister: Lister,
    namespaces: Vec<Namespace>,
    everywhere: bool,
    clock: Clock,
    cgroups: Cgroups,
    /// Of the first listing: in the sandbox they cannot be gathered again.
    neighbours: Option<Neighbours>,
}

impl Finder {
    /// Lists the sockets of these namespaces, which are all there are if `everywhere`.
    ///
    /// # Errors
    /// If no source works.
    pub fn open(namespaces: Vec<Namespace>, everywhere: bool, options: &Options) -> Result<Self> {
        Ok(Self {
            lister: Lister::open(None, options)?,
            namespaces,
            everywhere,
            clock: clock::now(),
            cgroups: Cgroups::open(),
            neighbours: None,
        })
    }

    /// The socket that the target names; `choose` returns the index of the one that is meant.
    ///
    /// # Errors
    /// If there is none, or `choose` fails.
    pub fn find(
        &mut self,
        target: &Target,
        choose: impl FnOnce(&[ListedSocket]) -> Result<usize>,
    ) -> Result<Located> {
        let mut listing = self
            .lister
            .list_with_neighbours(&self.namespaces, &|_| true)?;
        let rows = listing.sockets.iter().enumerate();
        let mut named: Vec<_> = rows
            .map(|(index, socket)| (index, listing.row(socket, 1, &self.clock)))
            .filter(|(_, row)| target.is(row))
            .collect();
        target.prefer_connections(&mut named);
        let (indices, mut rows): (Vec<usize>, Vec<ListedSocket>) = named.into_iter().unzip();
        if rows.is_empty() {
            let incomplete = &listing.incomplete;
            bail!(no_match(
                target,
                listing.sockets.len(),
                incomplete,
                self.everywhere
            ));
        }
        let chosen = choose(&rows)?;
        self.neighbours = listing.neighbours.take();
        let socket = listing.sockets[indices[chosen]];
        Ok(self.located(&socket, rows.swap_remove(chosen), &listing))
    }

    /// The needs of finding it again.
    pub fn needs(&self, located: &Located) -> Result<Needs> {
        let here = Namespace::current()?.inode;
        let host = namespace::host().map_or(here, |(host, _)| host);
        Ok(self.lister.needs(located.id.netns != here || host != here))
    }

    /// The same socket as it is now; `None` if it has ended.
    pub fn again(&mut self, before: &Located) -> Result<Option<Located>> {
        let there = before.id.netns;
        self.namespaces.retain(|namespace| namespace.inode == there);
        let mut listing = self.lister.list(&self.namespaces, true, &|socket| {
            filter::is_same(&socket.id, &before.id)
        })?;
        listing.neighbours = self.neighbours.take();
        let is_full = |socket: &&Snapshot| socket.kind == SnapshotKind::Socket;
        let Some(socket) = listing.sockets.iter().find(is_full).copied() else {
            return Ok(None);
        };
        let mut row = listing.row(&socket, 1, &self.clock);
        // How long the queue was.
        row.accept_queue = None;
        self.neighbours = listing.neighbours.take();
        Ok(Some(Located {
            is_accepted: before.is_accepted,
            ..self.located(&socket, row, &listing)
        }))
    }

    fn located(&mut self, socket: &Snapshot, mut row: ListedSocket, listing: &Listing) -> Located {
        if let Some(place) = self.cgroups.resolve(socket.id.cgroup) {
            (row.cgroup, row.container_id) = (Some(place.cgroup), place.container_id);
        }
        Located {
            row,
            id: socket.id,
            sysctls: listing.sysctls.get(&socket.id.netns).copied(),
            is_accepted: is_accepted(&socket.id, &listing.sockets),
        }
    }
}

/// Whether a socket listens on the local port of this one.
fn is_accepted(id: &Identity, sockets: &[Snapshot]) -> bool {
    sockets.iter().any(|other| {
        other.id.state == state::LISTEN
            && other.id.netns == id.netns
            && other.id.local_port == id.local_port
    })
}

/// The message that none of so many sockets matches, with what may hide it.
fn no_match(
    target: &Target,
    sockets: usize,
    incomplete: &[Incomplete],
    everywhere: bool,
) -> String {
    let place = if everywhere {
        "on this machine"
    } else {
        "in this network namespace (--all-netns searches all)"
    };
    let unresolved = incomplete.iter().find(|incomplete| {
        incomplete.what == IncompletePart::Owner && matches!(target, Target::Pid(_))
    });
    format!(
        "no TCP socket matches, among {sockets} {place}; `keepalive list` shows them{}",
        unresolved.map_or_else(String::new, |incomplete| format!(
            ". The owners of {} are unresolved: {}",
            plural(incomplete.count, "socket"),
            incomplete.reason
        ))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_a_listener_here_was_accepted() {
        let socket = |netns, local_port, state| {
            let mut socket = Snapshot::default();
            (socket.id.netns, socket.id.local_port, socket.id.state) = (netns, local_port, state);
            socket
        };
        let sockets = [
            socket(1, 22, state::LISTEN),
            socket(2, 80, state::LISTEN),
            socket(1, 443, state::ESTABLISHED),
        ];
        for (port, expected) in [(22, true), (80, false), (443, false)] {
            let id = socket(1, port, state::ESTABLISHED).id;
            assert_eq!(is_accepted(&id, &sockets), expected, "{port}");
        }
    }

    #[test]
    fn unresolved_owners_may_hide_the_socket_of_a_process_only() {
        let incomplete = [Incomplete {
            what: IncompletePart::Owner,
            count: 3,
            reason: "run as root".to_owned(),
        }];
        let text = |target: &str, everywhere| {
            no_match(&target.parse().unwrap(), 5, &incomplete, everywhere)
        };
        let of_process = text("4711", true);
        assert!(of_process.starts_with("no TCP socket matches, among 5 on this machine;"));
        assert!(of_process.ends_with("The owners of 3 sockets are unresolved: run as root"));
        let of_port = text(":22", false);
        assert!(of_port.contains("--all-netns") && of_port.ends_with("shows them"));
    }
}
