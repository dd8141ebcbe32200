//! Runs of a program that the kernel skipped, because the program was already running on that CPU.
//!
//! The kernel counts them since 5.12 (`bpf_prog_inc_misses_counter`). It does not count runs that it skips
//! for other reasons.

use std::{
    mem::offset_of,
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_obj::generated::bpf_prog_info;

use crate::machine::syscall;

/// The programs that are loaded.
pub fn loaded(ebpf: &Ebpf) -> Result<Vec<OwnedFd>> {
    ebpf.programs()
        .filter_map(|(_, program)| program.fd().ok())
        .map(|fd| {
            fd.as_fd()
                .try_clone_to_owned()
                .context("cannot hold a BPF program")
        })
        .collect()
}

/// How often the kernel skipped this program so far.
///
/// # Errors
/// If the kernel refuses to describe the program.
pub fn recursion(program: &OwnedFd) -> Result<u64> {
    let mut info = [0; size_of::<bpf_prog_info>()];
    syscall::bpf_object_info(program.as_fd(), &mut info)
        .context("cannot read bpf_prog_info of a BPF program")?;
    let misses = info[offset_of!(bpf_prog_info, recursion_misses)..].first_chunk();
    Ok(misses.copied().map_or(0, u64::from_ne_bytes))
}
