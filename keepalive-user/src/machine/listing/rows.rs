//! The result of a listing, as rows.

use keepalive_ebpf::Snapshot;
use rustc_hash::FxHashMap;

use super::Holders;
use crate::{
    core::{
        clock::Clock,
        event::{
            Incomplete, ListEnd, ListSource, ListedNamespace, ListedSocket, RefusedSource, Sysctls,
            When,
        },
        neighbours::Neighbours,
        order::{self, Order},
        owners::Place,
        rows,
    },
    machine::{namespace::Namespace, owners::Cgroups},
};

/// The sockets, and what is incomplete.
pub struct Listing {
    pub source: ListSource,
    pub sockets: Vec<Snapshot>,
    /// Ticks per second of the snapshots.
    pub hz: u32,
    pub(super) owners: Holders,
    /// The process to print first, if it is among a socket's owners.
    pub(super) preferred: Option<u32>,
    /// Where sockets were created, by cgroup id; empty until it is resolved.
    pub(super) places: FxHashMap<u64, Place>,
    /// All sockets and addresses of the namespaces, if they were gathered.
    pub neighbours: Option<Neighbours>,
    /// By namespace.
    pub sysctls: FxHashMap<u32, Sysctls>,
    pub incomplete: Vec<Incomplete>,
}

impl Listing {
    /// A socket of the listing as a row, with the processes that hold it; `id` is its number in the output.
    pub fn row(&self, socket: &Snapshot, id: u64, clock: &Clock) -> ListedSocket {
        let mut row = rows::row(socket, id, self.hz, clock);
        (row.process, row.pids) = self.owners.processes(socket.id.inode);
        if let Some(preferred) = self.preferred.filter(|pid| row.pids.contains(pid)) {
            row.process = self.owners.process(preferred);
        }
        if let Some(place) = self.places.get(&socket.id.cgroup) {
            row.cgroup = Some(place.cgroup.clone());
            row.container_id = place.container_id.clone();
        }
        if let Some(neighbours) = &self.neighbours {
            let owner = |inode| self.owners.processes(inode).0;
            row.peer = neighbours.peer(&socket.id, owner);
            if row.not_accepted {
                row.accept_queue = neighbours.accept_queue(&socket.id, owner);
            }
        }
        row
    }

    /// Keeps the sockets that this process holds; it is their owner in the rows.
    pub fn prefer(&mut self, pid: u32) {
        self.preferred = Some(pid);
        let owners = &self.owners;
        self.sockets.retain(|socket| {
            let held = owners.of(socket.id.inode);
            held.iter().any(|descriptor| descriptor.pid == pid)
        });
    }

    /// Keeps the sockets whose SO_KEEPALIVE is known to have this value.
    pub fn retain_keepalive(&mut self, is_on: bool) {
        self.sockets
            .retain(|socket| rows::knows_settings(socket) && socket.id.keepopen == is_on);
    }

    pub fn sort(&mut self, order: Order) {
        let owners = &self.owners;
        order::sort(&mut self.sockets, order, self.hz, |inode| {
            owners.of(inode).first().map(|descriptor| descriptor.pid)
        });
    }

    /// Resolves the cgroups of the sockets.
    pub fn resolve_places(&mut self, cgroups: &mut Cgroups) {
        for socket in &self.sockets {
            let id = socket.id.cgroup;
            if !self.places.contains_key(&id)
                && let Some(place) = cgroups.resolve(id)
            {
                self.places.insert(id, place);
            }
        }
    }

    /// The summary of the listing of these namespaces.
    pub fn end(&self, when: When, namespaces: &[Namespace], refused: &[RefusedSource]) -> ListEnd {
        let mut counts: FxHashMap<u32, u64> = FxHashMap::default();
        for socket in &self.sockets {
            *counts.entry(socket.id.netns).or_default() += 1;
        }
        let namespaces = namespaces.iter().map(|namespace| ListedNamespace {
            netns: namespace.inode,
            sockets: counts.get(&namespace.inode).copied().unwrap_or_default(),
            sysctl: self.sysctls.get(&namespace.inode).copied(),
        });
        ListEnd {
            when,
            source: self.source,
            refused: refused.to_vec(),
            sockets: self.sockets.len() as u64,
            namespaces: namespaces.collect(),
            incomplete: self.incomplete.clone(),
        }
    }
}
