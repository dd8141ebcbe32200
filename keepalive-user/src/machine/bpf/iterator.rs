//! # The iterators
//!
//! The kernel walks its TCP sockets (`iter/tcp`) or the open files of all processes
//! (`iter/task_file`) and calls our program with each: all settings, timers and owners of every
//! socket, without a system call per socket.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    marker::PhantomData,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{Ebpf, EbpfLoader, programs::Iter};
use keepalive_ebpf::{Filter, KernelLayout, OpenSocket, RecordFlags, Snapshot};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::{Kernel, OBJECT, Options, raise_memlock_limit};

/// Records that are read at once, bytes: more than the kernel's buffer holds.
const AT_ONCE: usize = 1 << 16;

/// The loaded programs.
pub struct Iterators {
    ebpf: Ebpf,
    /// The layout that they read with.
    pub layout: Box<KernelLayout>,
}

const SOCKETS: &str = "list_tcp";
const FILES: &str = "list_files";

impl Iterators {
    /// Loads the programs.
    ///
    /// # Errors
    /// With the kernel's reason, see [`super::reason::reason`].
    pub fn load(kernel: &Kernel) -> Result<Self> {
        Self::load_by(EbpfLoader::new(), kernel)
    }

    /// Reads the kernel's types, and loads the programs.
    ///
    /// # Errors
    /// As [`Kernel::read`] and [`Iterators::load`].
    pub fn open(options: &Options) -> Result<Self> {
        // The loader parses the BTF as well, which takes as long again.
        let (kernel, loader) = std::thread::scope(|scope| {
            let loader = scope.spawn(EbpfLoader::new);
            (Kernel::read(options), loader.join())
        });
        let loader = loader.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Self::load_by(loader, &kernel?)
    }

    fn load_by(loader: EbpfLoader<'static>, kernel: &Kernel) -> Result<Self> {
        raise_memlock_limit();
        let btf = kernel
            .btf
            .as_ref()
            .context("this kernel shows no BTF (/sys/kernel/btf/vmlinux)")?;
        let (filter, flags) = (Filter::default(), RecordFlags::empty());
        let mut loader: EbpfLoader<'_> = loader;
        let mut ebpf = loader
            .override_global("LAYOUT", kernel.resolved.layout.as_bytes(), true)
            .override_global("FILTER", filter.as_bytes(), true)
            .override_global("BACKEND_FLAGS", flags.as_bytes(), true)
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
        Ok(Self {
            ebpf,
            layout: Box::new(kernel.resolved.layout),
        })
    }

    /// A walk over every TCP socket of the calling thread's network namespace.
    pub fn sockets(&mut self) -> Result<Walk<Snapshot>> {
        Walk::start(program(&mut self.ebpf, SOCKETS)?).context("iter/tcp")
    }

    /// A walk over every open file that is a socket.
    pub fn descriptors(&mut self) -> Result<Walk<OpenSocket>> {
        Walk::start(program(&mut self.ebpf, FILES)?).context("iter/task_file")
    }
}

/// One walk of the kernel, which goes on as it is read.
pub struct Walk<T> {
    file: File,
    records: PhantomData<T>,
}

impl<T> Walk<T>
where
    T: TryFromBytes + Immutable + KnownLayout,
{
    fn start(program: &mut Iter) -> Result<Self> {
        let link = program.attach()?;
        Ok(Self {
            file: program.take_link(link)?.into_file()?,
            records: PhantomData,
        })
    }

    /// Passes the program's records to `each` until the walk ends, in the batches that read(2) returned.
    pub fn batches(self, mut each: impl FnMut(&[T])) -> Result<()> {
        self.try_batches(|batch| {
            each(batch);
            Ok(())
        })
    }

    /// As [`Walk::batches`], but stops when `stop` becomes true.
    pub fn batches_until(self, stop: &AtomicBool, mut each: impl FnMut(&[T])) -> Result<()> {
        self.try_batches_until(stop, |batch| {
            each(batch);
            Ok(())
        })
    }

    /// As [`Walk::batches`], until an error.
    pub fn try_batches(self, each: impl FnMut(&[T]) -> Result<()>) -> Result<()> {
        self.try_batches_until(&AtomicBool::new(false), each)
    }

    fn try_batches_until(
        mut self,
        stop: &AtomicBool,
        mut each: impl FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        // An array of words has the alignment of the records that the kernel writes.
        let mut buffer = vec![0_u64; AT_ONCE / size_of::<u64>()];
        while !stop.load(Ordering::Relaxed) {
            let length = match self.file.read(buffer.as_mut_slice().as_mut_bytes()) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                // The program asks to be called again.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) =>
                {
                    continue;
                }
                Err(error) => return Err(error).context("cannot read from the kernel's iterator"),
            };
            // The kernel's buffer is smaller than this one, so it never splits a record.
            ensure!(
                length % size_of::<T>() == 0,
                "the kernel's iterator returned {length} bytes"
            );
            let bytes = buffer.as_bytes().get(..length).unwrap_or_default();
            let Ok(records) = <[T]>::try_ref_from_bytes(bytes) else {
                bail!("the kernel's iterator returned an unknown kind of socket or flag");
            };
            each(records)?;
        }
        Ok(())
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Iter> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program {name}"))?;
    Ok(program.try_into()?)
}
