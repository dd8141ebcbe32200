//! The result of a listing, as rows.

use keepalive_ebpf::Snapshot;
use rustc_hash::FxHashMap;

use super::Holders;
use crate::core::{
    clock::Clock,
    event::{Incomplete, ListSource, ListedSocket, Sysctls},
    rows,
};

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
