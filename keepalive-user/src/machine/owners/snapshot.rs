//! The result of one pass over all file descriptors: which process held which socket at that time.

use keepalive_ebpf::OpenSocket;

use crate::machine::descriptors::Descriptor;

use super::budget::Nanoseconds;

/// The most descriptors kept of one pass, 16 bytes each.
const MOST: usize = 1 << 21;

const _: () = assert!(size_of::<Descriptor>() == size_of::<OpenSocket>());

#[derive(Debug, Default)]
pub struct DescriptorSnapshot {
    /// When the pass began, CLOCK_MONOTONIC.
    pub started: Nanoseconds,
    /// Ascending.
    descriptors: Vec<Descriptor>,
    /// The list was truncated: a socket that is missing here may still be held.
    is_cut: bool,
}

impl DescriptorSnapshot {
    pub fn begin(started: Nanoseconds) -> Self {
        Self {
            started,
            ..Self::default()
        }
    }

    pub fn add(&mut self, descriptor: Descriptor) {
        if self.descriptors.len() < MOST {
            self.descriptors.push(descriptor);
        } else {
            self.is_cut = true;
        }
    }

    /// The end of the pass.
    pub fn finish(mut self) -> Self {
        self.descriptors.sort_unstable();
        // Threads may share a table, and a process may have several descriptors of a socket.
        self.descriptors
            .dedup_by_key(|descriptor| (descriptor.inode, descriptor.pid));
        self.descriptors.shrink_to_fit();
        self
    }

    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// One holder of a socket: the first of `preferred` that holds it, else the one with the lowest
    /// process id.
    pub fn holder(&self, inode: u64, preferred: [Option<u32>; 2]) -> Option<Descriptor> {
        let start = self
            .descriptors
            .partition_point(|descriptor| descriptor.inode < inode);
        let rest = self.descriptors.get(start..).unwrap_or_default();
        let holders = || rest.iter().take_while(|held| held.inode == inode);
        preferred
            .into_iter()
            .flatten()
            .find_map(|pid| holders().find(|held| held.pid == pid))
            .or_else(|| holders().next())
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(inode: u64, pid: u32, fd: i32) -> Descriptor {
        Descriptor { inode, pid, fd }
    }

    #[test]
    fn finds_a_holder_of_several() {
        let mut snapshot = DescriptorSnapshot::begin(7);
        for descriptor in [
            held(5, 30, 3),
            held(4, 1, 9),
            held(5, 20, 8),
            held(5, 20, 4),
            held(6, 20, 5),
        ] {
            snapshot.add(descriptor);
        }
        let snapshot = snapshot.finish();
        assert_eq!(snapshot.holder(5, [None, None]), Some(held(5, 20, 4)));
        assert_eq!(snapshot.holder(5, [Some(30), None]), Some(held(5, 30, 3)));
        assert_eq!(
            snapshot.holder(5, [Some(1), Some(30)]),
            Some(held(5, 30, 3))
        );
        assert_eq!(snapshot.holder(5, [Some(1), None]), Some(held(5, 20, 4)));
        assert_eq!(snapshot.holder(4, [None, None]), Some(held(4, 1, 9)));
        assert_eq!(snapshot.holder(7, [Some(20), None]), None);
        assert_eq!(DescriptorSnapshot::default().holder(7, [None, None]), None);
    }
}
