//! # The iterators
//!
//! The kernel walks its TCP sockets (`iter/tcp`) or the open files of all processes
//! (`iter/task_file`) and calls our program with each: all settings, timers and owners of every
//! socket, without a system call per socket.

use std::{
    io::{ErrorKind, Read},
    os::fd::RawFd,
};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, EbpfLoader, programs::Iter};
use keepalive_ebpf::{Filter, OpenSocket, Snapshot};
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

use super::{Kernel, OBJECT, raise_memlock_limit};
use crate::descriptors::Descriptor;

/// Records that are read at once, bytes: more than the kernel's buffer holds.
const AT_ONCE: usize = 1 << 16;

/// The loaded programs.
pub struct Iterators {
    ebpf: Ebpf,
}

const SOCKETS: &str = "list_tcp";
const FILES: &str = "list_files";

impl Iterators {
    /// Loads the programs.
    ///
    /// # Errors
    /// With the kernel's reason, see [`super::reason::reason`].
    pub fn load(kernel: &Kernel) -> Result<Self> {
        raise_memlock_limit();
        let btf = kernel
            .btf
            .as_ref()
            .context("this kernel shows no BTF (/sys/kernel/btf/vmlinux)")?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(btf))
            .override_global("LAYOUT", kernel.resolved.layout.as_bytes(), true)
            .override_global("FILTER", Filter::default().as_bytes(), true)
            .override_global("BACKEND_FLAGS", &0u32, true)
            .override_global("VERBOSE", &0u32, true)
            .map_max_entries("EVENTS", 4096)
            .load(OBJECT)
            .context("cannot create the BPF maps")?;
        for (name, kind) in [(SOCKETS, "tcp"), (FILES, "task_file")] {
            let program = program(&mut ebpf, name)?;
            program
                .load(kind, btf)
                .with_context(|| format!("iter/{kind}"))?;
        }
        Ok(Self { ebpf })
    }

    /// Hands out every TCP socket of the calling thread's network namespace.
    pub fn sockets(&mut self, each: impl FnMut(&Snapshot)) -> Result<()> {
        walk(program(&mut self.ebpf, SOCKETS)?, each).context("iter/tcp")
    }

    /// Hands out every open file that is a socket.
    pub fn descriptors(&mut self, mut each: impl FnMut(Descriptor)) -> Result<()> {
        let each = |open: &OpenSocket| {
            each(Descriptor {
                inode: open.inode,
                pid: open.tgid,
                fd: open.fd as RawFd,
            });
        };
        walk(program(&mut self.ebpf, FILES)?, each).context("iter/task_file")
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?;
    Ok(program.try_into()?)
}

/// Lets the kernel walk once, and hands out what the program wrote.
fn walk<T>(program: &mut Iter, mut each: impl FnMut(&T)) -> Result<()>
where
    T: Clone + Default + FromBytes + IntoBytes + KnownLayout,
{
    let link = program.attach()?;
    let mut file = program.take_link(link)?.into_file()?;
    let mut records = vec![T::default(); AT_ONCE / size_of::<T>()];
    loop {
        let length = match file.read(records.as_mut_slice().as_mut_bytes()) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            // The program asks to be called again.
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
            {
                continue;
            }
            Err(error) => return Err(error).context("cannot read from the kernel"),
        };
        // The kernel's buffer is smaller than ours: it never cuts one in two.
        ensure!(
            length % size_of::<T>() == 0,
            "the kernel gave {length} bytes"
        );
        records[..length / size_of::<T>()]
            .iter()
            .for_each(&mut each);
    }
}
