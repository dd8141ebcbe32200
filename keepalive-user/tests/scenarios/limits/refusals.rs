//! Kernels that show or allow less than most: made here, by hiding files and forbidding calls.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::sys;
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

/// Without the kernel's own BTF nothing works, and the remedy is named; with a copy of it the
/// tracepoint backend does, and it is said why not the better one.
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
    ensure!(
        ended.stderr.contains("fentry backend is refused"),
        "stderr does not say that it falls back: {}",
        ended.stderr.trim()
    );
    Ok(())
}

/// In a mount namespace of this thread alone.
fn hide_btf() -> Result<()> {
    private_mounts()?;
    mount(c"tmpfs", BTF, c"").context("hiding the BTF")
}

/// A mount namespace of this thread alone, whose mounts nobody else sees.
pub fn private_mounts() -> Result<()> {
    // SAFETY: takes no pointers; changes this thread only.
    sys::check(unsafe { libc::unshare(libc::CLONE_NEWNS) }).context("unshare(CLONE_NEWNS)")?;
    let (nothing, root) = (std::ptr::null(), c"/".as_ptr());
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: a C string that outlives the call; the other pointers are ignored with these flags.
    sys::check(unsafe { libc::mount(nothing, root, nothing, flags, nothing.cast()) })
        .context("making mounts private")?;
    Ok(())
}

/// Mounts a file system of this kind.
pub fn mount(kind: &CStr, at: &CStr, options: &CStr) -> Result<()> {
    // SAFETY: C strings that outlive the call.
    sys::check(unsafe {
        libc::mount(
            kind.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    })?;
    Ok(())
}

/// A policy that forbids bpf(2) altogether: every backend's reason is given.
fn all_refused(bench: &Bench) -> Result<()> {
    let mut command = Command::new(&bench.keepalive);
    command.args(["trace", "-d", "1s"]);
    // SAFETY: only system calls on memory of this function, between fork and exec.
    unsafe {
        command.pre_exec(forbid_bpf);
    }
    Refused::from(command)?.expect_code(4)?.expect_sentence(&[
        "fentry",
        "tracepoint",
        "policy",
        "keepalive doctor",
    ])?;
    Ok(())
}

/// A seccomp filter: bpf(2) fails with EPERM, all else works.
fn forbid_bpf() -> io::Result<()> {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The number of the system call, the first word of `struct seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_bpf as u32,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its filter outlive the calls.
    unsafe {
        sys::check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        sys::check(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        ))?;
    }
    Ok(())
}
