//! Runs of a program that the kernel skipped, because the program was already running on that CPU.
//!
//! The kernel counts them (`bpf_prog_inc_misses_counter`, since 5.12; before, and for whatever else it
//! does not run, there is no count).

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya_obj::generated::{bpf_cmd, bpf_prog_info};

/// The programs that are loaded.
pub fn loaded(ebpf: &Ebpf) -> Result<Vec<OwnedFd>> {
    ebpf.programs()
        .filter_map(|(_, program)| program.fd().ok())
        .map(|fd| {
            let fd = std::os::fd::AsFd::as_fd(fd);
            fd.try_clone_to_owned().context("cannot hold a BPF program")
        })
        .collect()
}

/// The layout of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoRequest {
    fd: u32,
    length: u32,
    info: u64,
}

/// How often the kernel skipped this program so far.
///
/// # Errors
/// If the kernel refuses to describe the program.
pub fn recursion(program: &OwnedFd) -> Result<u64> {
    // SAFETY: the struct is plain integers, for which all-zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let request = InfoRequest {
        fd: program.as_raw_fd().cast_unsigned(),
        length: size_of::<bpf_prog_info>().try_into()?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the attribute and the struct it points to are locals, with their true sizes; the kernel
    // writes as much of the struct as it knows.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD,
            &raw const request,
            size_of::<InfoRequest>(),
        )
    };
    ensure!(
        result == 0,
        "cannot read what the kernel says of a BPF program: {}",
        std::io::Error::last_os_error()
    );
    Ok(info.recursion_misses)
}
