//! Kernels that expose or allow less than usual, simulated by hiding files and forbidding system
//! calls.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use linux_raw_sys::errno::EPERM;
use linux_raw_sys::general::__NR_bpf;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::tracer::Tracer;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "bad_hidden_btf",
        run: hidden_btf,
    },
    HardCase {
        name: "bad_all_refused",
        run: all_refused,
    },
];

const BTF: &CStr = c"/sys/kernel/btf";
const COPY: &str = "/tmp/keepalive-scenario.btf";

/// Without the kernel's BTF no backend loads, and the error names the remedy. With a copy of the
/// BTF the tracepoint backend loads, and the first line gives the reason why fentry does not.
fn hidden_btf(bench: &Bench) -> Result<()> {
    fs::copy("/sys/kernel/btf/vmlinux", COPY).context("copying the kernel's BTF")?;
    hide_btf()?;
    bench
        .output(&["-d", "1s"])?
        .expect_code(4)?
        .expect_sentence(&["BTF", "--btf FILE"])?;
    let mut command = Command::new(&bench.keepalive);
    command.args(["trace", "--json", "--btf", COPY]);
    let tracer = Tracer::from_command(command)?;
    let start = tracer.start.clone();
    let ended = tracer.interrupt()?;
    ended.end()?;
    fs::remove_file(COPY).context("removing the copy")?;
    start.expect("backend", "tracepoint")?;
    let refused = &start.get("refused")[0];
    ensure!(
        refused["backend"] == "fentry" && refused["reason"].to_string().contains("BTF"),
        "`refused` is {refused}"
    );
    // Once: in the first line.
    ensure!(
        !ended.stderr.contains("refused"),
        "stderr repeats the fallback: {}",
        ended.stderr.trim()
    );
    Ok(())
}

/// Hides the BTF, in a mount namespace of this thread alone.
fn hide_btf() -> Result<()> {
    private_mounts()?;
    mount(c"tmpfs", BTF, c"").context("hiding the BTF")
}

/// Moves this thread into a mount namespace of its own; its mounts do not propagate.
pub fn private_mounts() -> Result<()> {
    // SAFETY: without CLONE_FILES no thread loses a descriptor; only this thread changes namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("unshare(CLONE_NEWNS)")?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change(c"/", private).context("making mounts private")
}

/// Mounts a file system of this kind.
pub fn mount(kind: &CStr, at: &CStr, options: &CStr) -> Result<()> {
    Ok(rustix::mount::mount(
        kind,
        at,
        kind,
        MountFlags::empty(),
        options,
    )?)
}

/// A policy that forbids bpf(2) altogether: the error gives the reason for every backend.
fn all_refused(bench: &Bench) -> Result<()> {
    let mut command = Command::new(&bench.keepalive);
    command.args(["trace", "-d", "1s"]);
    let filter = forbidding_bpf()?;
    // SAFETY: two system calls on memory that was there before the fork.
    unsafe {
        command.pre_exec(move || apply_filter(&filter).map_err(|_| io::ErrorKind::Other.into()));
    }
    Refused::from(command)?.expect_code(4)?.expect_sentence(&[
        "fentry",
        "tracepoint",
        "policy",
        "keepalive doctor",
    ])?;
    Ok(())
}

/// A seccomp filter: bpf(2) fails with EPERM, all other system calls work.
fn forbidding_bpf() -> Result<BpfProgram> {
    let filter = SeccompFilter::new(
        [(__NR_bpf.into(), Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(EPERM),
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    Ok(filter.try_into()?)
}
