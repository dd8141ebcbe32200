//! Finds the socket that a target names in a listing, and finds it again.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, Result, bail};
use keepalive_ebpf::{Identity, Snapshot, SnapshotKind};

use crate::{
    cli::{Explain, Selection},
    core::{
        clock::Clock,
        event::{Incomplete, ListedSocket, Sysctls},
        filter,
        kernel::state,
        target::Target,
    },
    machine::{
        bpf::Options,
        clock,
        listing::{Lister, Listing},
        namespace::{self, Namespace},
        owners::Cgroups,
        sandbox::Needs,
    },
    output::explain,
};

/// The most sockets in a choice.
const SHOWN: usize = 20;

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
}

impl Finder {
    pub fn open(arguments: &Explain, options: &Options) -> Result<Self> {
        Ok(Self {
            lister: Lister::open(None, options)?,
            namespaces: Selection::default().namespaces(arguments.all_netns)?.0,
            everywhere: arguments.all_netns,
            clock: clock::now(),
            cgroups: Cgroups::open(),
        })
    }

    /// The socket that the target names; asks if there are several.
    pub fn find(&mut self, target: &Target) -> Result<Located> {
        let listing = self.lister.list(&self.namespaces, true, &|_| true)?;
        let mut matching: Vec<(Snapshot, ListedSocket)> = Vec::new();
        for socket in &listing.sockets {
            let row = listing.row(socket, 1, &self.clock);
            if target.is(&row) {
                matching.push((*socket, row));
            }
        }
        if matching.is_empty() {
            bail!("{}", self.nothing(target, &listing));
        }
        let chosen = choose(matching.iter().map(|(_, row)| row))?;
        let (socket, row) = matching.swap_remove(chosen);
        Ok(self.found(&socket, row, &listing))
    }

    /// The needs of finding it again.
    pub fn needs(&self, found: &Located) -> Result<Needs> {
        let here = Namespace::current()?.inode;
        let host = namespace::host().map_or(here, |(host, _)| host);
        Ok(self.lister.needs(found.id.netns != here || host != here))
    }

    /// The same socket as it is now; `None` if it has ended.
    pub fn again(&mut self, before: &Located) -> Result<Option<Located>> {
        let there = before.id.netns;
        self.namespaces.retain(|namespace| namespace.inode == there);
        let listing = self.lister.list(&self.namespaces, true, &|socket| {
            filter::is_same(&socket.id, &before.id)
        })?;
        let is_full = |socket: &&Snapshot| socket.kind == SnapshotKind::Socket;
        let Some(socket) = listing.sockets.iter().find(is_full).copied() else {
            return Ok(None);
        };
        let row = listing.row(&socket, 1, &self.clock);
        Ok(Some(Located {
            is_accepted: before.is_accepted,
            ..self.found(&socket, row, &listing)
        }))
    }

    fn found(&mut self, socket: &Snapshot, mut row: ListedSocket, listing: &Listing) -> Located {
        if let Some(place) = self.cgroups.resolve(socket.id.cgroup) {
            (row.cgroup, row.container_id) = (Some(place.cgroup), place.container_id);
        }
        let is_listener = |other: &Snapshot| {
            other.id.state == state::LISTEN
                && other.id.netns == socket.id.netns
                && other.id.local_port == socket.id.local_port
        };
        Located {
            row,
            id: socket.id,
            sysctls: listing.sysctls.get(&socket.id.netns).copied(),
            is_accepted: listing.sockets.iter().any(is_listener),
        }
    }

    /// The message that no socket matches, with what may hide it.
    fn nothing(&self, target: &Target, listing: &Listing) -> String {
        let place = if self.everywhere {
            "on this machine"
        } else {
            "in this network namespace (--all-netns looks in all)"
        };
        let unseen = |incomplete: &&Incomplete| {
            incomplete.what == "owner" && matches!(target, Target::Pid(_))
        };
        let unseen = listing.incomplete.iter().find(unseen);
        format!(
            "no TCP socket matches, among {} {place}; `keepalive list` shows them{}",
            listing.sockets.len(),
            unseen.map_or_else(String::new, |incomplete| format!(
                ". The owners of {} sockets are unresolved: {}",
                incomplete.count, incomplete.reason
            ))
        )
    }
}

/// Lets the user choose among several, if there is one to ask.
fn choose<'a>(rows: impl ExactSizeIterator<Item = &'a ListedSocket>) -> Result<usize> {
    let count = rows.len();
    if count == 1 {
        return Ok(0);
    }
    for (index, row) in rows.take(SHOWN).enumerate() {
        anstream::eprintln!("{:>4}  {}", index + 1, explain::choice(row));
    }
    if count > SHOWN {
        anstream::eprintln!("      … and {} more", count - SHOWN);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        bail!("{count} sockets match: name one by LOCAL-PEER or sk:COOKIE, as listed above");
    }
    anstream::eprint!("Which one? [1-{}] ", count.min(SHOWN));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("stdin")?;
    match line.trim().parse::<usize>() {
        Ok(number) if (1..=count.min(SHOWN)).contains(&number) => Ok(number - 1),
        _ => bail!("{:?} is not one of the numbers above", line.trim()),
    }
}
