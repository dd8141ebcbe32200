//! Which process holds which socket: found in one pass for a whole listing.

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

/// All sockets of all processes whose descriptors are readable.
#[derive(Default)]
pub struct Holders {
    /// By inode, then process.
    descriptors: Vec<Descriptor>,
    processes: FxHashMap<u32, Arc<Process>>,
    /// Processes whose descriptors are not readable.
    pub denied: u64,
}

impl Holders {
    /// Finds them by a pass over /proc.
    pub fn of_proc() -> Self {
        let mut owners = Self::default();
        owners.denied = descriptors::pass(|holder, descriptor| {
            owners.add(descriptor, || holder.comm());
        });
        owners.sorted()
    }

    /// Finds them by the kernel's walk; `None` if its process ids are not those of /proc, because we are
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

    /// Reads a process's name while its files are walked: later another process may have its id.
    fn add(&mut self, descriptor: Descriptor, comm: impl FnOnce() -> String) {
        let pid = descriptor.pid;
        // A walk visits one process after the other.
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
        // Threads that share a descriptor table give the same descriptor more than once.
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

    /// The process with this id, if it holds sockets.
    pub fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.processes.get(&pid).map(Arc::clone)
    }
}
