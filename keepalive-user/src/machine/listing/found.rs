//! The sockets of a source so far: each is listed once, those of self-tests are not.

use keepalive_ebpf::{Identity, Snapshot, SnapshotKind};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::mm::{Advice, madvise};

use super::{Holders, Listing};
use crate::{
    core::event::{Incomplete, ListSource, Sysctls},
    machine::{
        bpf::self_test,
        namespace::{self, Namespace},
    },
};

/// The sockets of a source so far.
#[derive(Default)]
pub struct Found {
    pub sockets: Vec<Snapshot>,
    /// The kernel may return a socket twice if the list changes meanwhile; and the memory of a closed socket
    /// may be reused for another. The last index of each name.
    seen: FxHashMap<u64, u32>,
    /// Namespaces and ports at which self-tests listen.
    left_out: FxHashSet<(u32, u16)>,
    pub sysctls: FxHashMap<u32, Sysctls>,
    pub incomplete: Vec<Incomplete>,
}

/// The initial capacity in sockets; only used pages take memory.
const ROOM: usize = 1 << 17;

impl Found {
    /// For many sockets, which come fast: with pages of 4 KiB, page faults would take as long as a quarter of
    /// the kernel's walk.
    pub fn with_room() -> Self {
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

    pub fn add(&mut self, socket: &Snapshot) {
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
    pub fn leave_out(&mut self, socket: &Snapshot) {
        self.left_out
            .insert((socket.id.netns, socket.id.local_port));
    }

    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Truncates the list to this length.
    pub fn forget_since(&mut self, length: usize) {
        for socket in self.sockets.drain(length..) {
            self.seen.remove(&name(&socket));
        }
    }

    pub fn note_sysctls(&mut self, namespace: &Namespace) {
        if let Ok(Some(sysctls)) = namespace.within(|| Ok(namespace::sysctls())) {
            self.sysctls.insert(namespace.inode, sysctls);
        }
    }

    pub fn listing(mut self, source: ListSource, hz: u32, owners: Holders) -> Listing {
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
            preferred: None,
            places: FxHashMap::default(),
            neighbours: None,
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
mod tests {
    use super::*;

    fn socket(sk: u64, cookie: u64, peer_port: u16) -> Snapshot {
        Snapshot {
            id: Identity {
                sk,
                cookie,
                peer_port,
                ..Identity::default()
            },
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_socket_is_listed_once_and_its_successor_too() {
        let mut found = Found::default();
        let (first, successor, other) = (socket(1, 0, 80), socket(1, 0, 81), socket(0, 2, 80));
        for socket in [first, first, successor, successor, other, other] {
            found.add(&socket);
        }
        assert_eq!(found.sockets, [first, successor, other]);
        found.forget_since(2);
        found.add(&other);
        assert_eq!(found.len(), 3);
    }
}
