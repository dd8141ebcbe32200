//! Who holds which socket: found in one pass for a whole listing.

use std::{os::fd::RawFd, sync::Arc};

use anyhow::Result;
use keepalive_ebpf::OpenSocket;
use rustc_hash::FxHashMap;

use crate::{
    core::event::Process,
    machine::{
        bpf::iterator::Walk,
        descriptors::{self, Descriptor},
        owners::comm_of,
    },
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
        let mut owners = Self::default();
        owners.denied = descriptors::pass(|holder, descriptor| {
            owners.add(descriptor, || holder.comm());
        });
        owners.sorted()
    }

    /// As the kernel walks them; `None` if its process ids are not those of /proc, because we are
    /// in a pid namespace. `own` is a socket of ours and its inode, which must be among them.
    pub fn of_kernel(walk: Walk<OpenSocket>, own: (RawFd, u64)) -> Result<Option<Self>> {
        let pid = std::process::id();
        let mut owners = Self::default();
        let mut same_pids = false;
        walk.batches(|batch| {
            for open in batch {
                let descriptor = Descriptor::from(open);
                same_pids |= descriptor.pid == pid && (descriptor.fd, open.inode) == own;
                owners.add(descriptor, || comm_of(descriptor.pid));
            }
        })?;
        Ok(same_pids.then(|| owners.sorted()))
    }

    /// A process's name is asked for while its files are walked: later the process may be another.
    fn add(&mut self, descriptor: Descriptor, comm: impl FnOnce() -> String) {
        let pid = descriptor.pid;
        // Walks go process by process.
        if self.descriptors.last().map(|last| last.pid) != Some(pid) {
            self.processes.entry(pid).or_insert_with(|| {
                let comm = comm();
                Arc::new(Process { pid, comm })
            });
        }
        self.descriptors.push(descriptor);
    }

    fn sorted(mut self) -> Self {
        self.descriptors.sort_unstable();
        // Threads may share a table.
        self.descriptors.dedup();
        self
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
    pub fn processes(&self, inode: u64) -> (Option<Arc<Process>>, Vec<u32>) {
        let mut pids: Vec<u32> = self
            .of(inode)
            .iter()
            .map(|descriptor| descriptor.pid)
            .collect();
        pids.dedup();
        let first = pids.first().and_then(|&pid| self.process(pid));
        (first, pids)
    }

    /// A process that holds sockets.
    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.processes.get(&pid).map(Arc::clone)
    }
}
