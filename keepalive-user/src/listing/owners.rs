//! Who holds which socket: found in one pass for a whole listing.

use std::{os::fd::RawFd, sync::Arc};

use anyhow::Result;
use keepalive_ebpf::OpenSocket;
use rustc_hash::FxHashMap;

use crate::{
    attribution::comm_of,
    descriptors::{self, Descriptor},
    event::Process,
    source::iterator::Walk,
};

/// All sockets of all processes that we may look into.
#[derive(Default)]
pub struct Owners {
    /// By inode, then process.
    descriptors: Vec<Descriptor>,
    processes: FxHashMap<u32, Arc<Process>>,
    /// Processes that forbade to look.
    pub denied: u64,
}

impl Owners {
    /// By a pass over /proc.
    pub fn of_proc() -> Self {
        let mut descriptors = Vec::new();
        let denied = descriptors::pass(|descriptor| descriptors.push(descriptor));
        Self::new(descriptors, denied)
    }

    /// As the kernel walks them; `None` if its process ids are not those of /proc, because we are
    /// in a pid namespace. `own` is a socket of ours, which must be among them.
    pub fn of_kernel(walk: Walk<OpenSocket>, own: RawFd) -> Result<Option<Self>> {
        let pid = std::process::id();
        let mut descriptors = Vec::new();
        let mut same_pids = false;
        walk.each(|open| {
            let descriptor = Descriptor::from(open);
            same_pids |= descriptor.pid == pid && descriptor.fd == own;
            descriptors.push(descriptor);
        })?;
        Ok(same_pids.then(|| Self::new(descriptors, 0)))
    }

    fn new(mut descriptors: Vec<Descriptor>, denied: u64) -> Self {
        descriptors.sort_unstable();
        // Threads may share a table.
        descriptors.dedup();
        Self {
            descriptors,
            processes: FxHashMap::default(),
            denied,
        }
    }

    /// The descriptors of one socket.
    pub fn of(&self, inode: u64) -> &[Descriptor] {
        if inode == 0 {
            return &[];
        }
        let start = self
            .descriptors
            .partition_point(|descriptor| descriptor.inode < inode);
        let rest = &self.descriptors[start..];
        let length = rest
            .iter()
            .take_while(|descriptor| descriptor.inode == inode)
            .count();
        &rest[..length]
    }

    /// The processes that hold a socket, ascending, and the first with its name.
    pub fn processes(&mut self, inode: u64) -> (Option<Arc<Process>>, Vec<u32>) {
        let mut pids: Vec<u32> = self
            .of(inode)
            .iter()
            .map(|descriptor| descriptor.pid)
            .collect();
        pids.dedup();
        let first = pids.first().map(|&pid| {
            let comm = || comm_of(pid);
            let process = self
                .processes
                .entry(pid)
                .or_insert_with(|| Arc::new(Process { pid, comm: comm() }));
            Arc::clone(process)
        });
        (first, pids)
    }
}
