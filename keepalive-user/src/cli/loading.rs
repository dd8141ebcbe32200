//! Arguments of the commands that load programs, and of their sandbox.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Selection, values::ring_bytes};
use crate::{
    core::{event::Backend, pipeline::Wanted},
    machine::{
        bpf::Options,
        sandbox::{Confinement, Needs, OwnerLookup},
        session::{Older, Request},
    },
};

/// How to attach to the kernel.
#[derive(Args, Debug)]
pub struct Loading {
    /// Observe the kernel by this backend
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Read the running kernel's BTF from this file, if it does not export its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Set the size of the ring buffer: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = ring_bytes)]
    pub ring_bytes: u32,
    #[command(flatten)]
    pub sandbox: Sandbox,
}

impl Loading {
    /// A live session of the selected sockets.
    ///
    /// # Errors
    /// If the selection names a namespace or cgroup that does not exist.
    pub fn request(&self, select: &Selection) -> Result<Request> {
        Ok(Request {
            options: Options {
                backend: self.backend.backend(),
                filter: select.filter()?,
                ring_bytes: self.ring_bytes,
                btf: self.btf.clone(),
                ..Options::default()
            },
            wanted: Wanted {
                pid: select.pid,
                // The programs filter already.
                ..Wanted::default()
            },
            older: Older::Remembered,
            needs: Needs::tracing(OwnerLookup::Proc),
            confinement: self.sandbox.confinement(),
            filters: select.described(),
        })
    }
}

/// Whether the command enters the sandbox after the start.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Sandbox {
    /// Keep all capabilities, system calls and files after the start (see `keepalive doctor`)
    #[arg(long)]
    pub no_sandbox: bool,
}

impl Sandbox {
    pub fn confinement(self) -> Confinement {
        if self.no_sandbox {
            Confinement::Declined
        } else {
            Confinement::Applied
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BackendChoice {
    /// The best one that works
    Auto,
    /// BPF trampolines: sees everything, costs nothing between timers
    Fentry,
    /// Raw tracepoints: for kernels or policies that refuse trampolines
    Tracepoint,
}

impl BackendChoice {
    pub fn backend(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Fentry => Some(Backend::Fentry),
            Self::Tracepoint => Some(Backend::Tracepoint),
        }
    }
}
