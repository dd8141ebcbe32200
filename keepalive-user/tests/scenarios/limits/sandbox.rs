//! Which privileges a running command has dropped, read from /proc, and that it works without them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_thread_res_gid, set_thread_res_uid,
};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::listing::{Listing, sources};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::sys::{self, Child};
use crate::kit::tracer::{PATIENCE, Tracer};
use crate::list::sockets::NOBODY;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "least_privilege",
        run: least_privilege,
    },
    HardCase {
        name: "least_privilege_ambient",
        run: ambient,
    },
    HardCase {
        name: "self_tests_of_others",
        run: self_tests_of_others,
    },
];

/// CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE; CAP_BPF where the kernel requires it.
const OWNERS: u64 = 1 << 2 | 1 << 19;
const CAP_BPF: u64 = CapabilitySet::BPF.bits();
const CAP_SYS_PTRACE: u64 = CapabilitySet::SYS_PTRACE.bits();

/// `/proc/PID/task/TID/status` of every thread.
fn statuses(pid: u32) -> Result<Vec<HashMap<String, String>>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("the threads")?;
    // A thread may have ended meanwhile.
    let statuses = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let parsed = statuses.map(|status| {
        let lines = status.lines().filter_map(|line| line.split_once(":\t"));
        lines
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    });
    let threads: Vec<_> = parsed.collect();
    ensure!(!threads.is_empty(), "the process has ended");
    Ok(threads)
}

/// Waits until every thread has a seccomp filter, and then checks the capabilities they kept.
fn expect_confined(pid: u32, bounding: Option<u64>, allowed: u64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let threads = loop {
        let threads = statuses(pid)?;
        let is_confined = threads
            .iter()
            .all(|it| it.get("Seccomp").is_some_and(|mode| mode == "2"));
        if is_confined {
            break threads;
        }
        ensure!(Instant::now() < deadline, "no seccomp filter: {threads:?}");
        thread::sleep(Duration::from_millis(50));
    };
    for thread in threads {
        let mask = |name: &str| -> Result<u64> {
            let value = thread.get(name).with_context(|| name.to_owned())?;
            u64::from_str_radix(value, 16).with_context(|| value.clone())
        };
        ensure!(thread["NoNewPrivs"] == "1", "{thread:?}");
        for name in ["CapEff", "CapPrm"] {
            let kept = mask(name)?;
            ensure!(kept & !allowed == 0, "{name} {kept:x} of {allowed:x}");
        }
        ensure!(
            mask("CapPrm")? & allowed & OWNERS == allowed & OWNERS,
            "{thread:?}"
        );
        for name in ["CapInh", "CapAmb"] {
            ensure!(mask(name)? == 0, "{thread:?}");
        }
        if let Some(bounding) = bounding {
            ensure!(mask("CapBnd")? == bounding, "{thread:?}");
        }
    }
    Ok(())
}

/// A process of another user that accepts a connection and keeps it open.
fn other_user(listener: BorrowedFd<'_>) -> Result<Child> {
    let nobody = Uid::from_raw(NOBODY);
    Ok(Child::run(|| {
        // The system call changes only the calling thread, which is the child's only one.
        let _ = set_thread_res_uid(nobody, nobody, nobody);
        // Kept until the process ends.
        std::mem::forget(accept_with(listener, SocketFlags::CLOEXEC));
    })?)
}

/// A trace that has dropped its privileges still resolves owners of other users, rotates its
/// recording, writes its report, and ends by itself.
fn least_privilege(bench: &Bench) -> Result<()> {
    let namespace = Namespace::create()?;
    let netns = namespace.inode.to_string();
    let directory = std::env::temp_dir().join("keepalive-scenario-sandbox");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let (recording, report) = (path("x.kar"), path("x.html"));
    let arguments = [
        "-N",
        &netns,
        "--record",
        &recording,
        "--record-size",
        "64K",
        "--report",
        &report,
        "-v",
        "--cost",
    ];
    let tracer = bench.trace(&arguments)?;
    expect_confined(tracer.pid(), Some(0), OWNERS | CAP_BPF)?;
    let holder = resolves_another_user(&tracer)?;
    // The recording exceeds its size limit several times.
    for _ in 0..600 {
        let pair = Pair::over(LOCALHOST)?;
        pair.client.arm(Keepalive::after(600))?;
    }
    drop(holder);
    let ended = tracer.interrupt()?;
    ended.end()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    for part in ["sandbox: ", "runs,"] {
        ensure!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    ensure!(
        fs::metadata(path("x.kar.1")).is_ok(),
        "the recording did not rotate"
    );
    let page = fs::read_to_string(&report).context("the report")?;
    ensure!(page.contains("</html>"), "the report is incomplete");
    fs::remove_dir_all(&directory)?;
    // With this option no privilege is dropped.
    let tracer = bench.trace(&["-N", &netns, "--no-sandbox", "-n", "1"])?;
    let threads = statuses(tracer.pid())?;
    ensure!(threads.iter().all(|it| it["Seccomp"] == "0"), "{threads:?}");
    let pair = Pair::over(LOCALHOST)?;
    pair.client.arm(Keepalive::after(600))?;
    tracer.end()?.end()?;
    Ok(())
}

/// Only a process of another user holds the accepted socket: the trace resolves it without being
/// root.
fn resolves_another_user(tracer: &Tracer) -> Result<Child> {
    let listener = Tcp::new(LOCALHOST)?;
    listener.arm(Keepalive::after(1))?;
    listener.listen(LOCALHOST)?;
    let holder = other_user(listener.as_fd())?;
    let client = Tcp::new(LOCALHOST)?;
    client.connect(listener.local()?)?;
    let port = u64::from(listener.local()?.port());
    let pid = u64::try_from(holder.pid())?;
    tracer
        .wait_for_line(PATIENCE, |event| {
            event.is("timer")
                && event.number("socket.local.port").ok() == Some(port)
                && event.number("process.pid").ok() == Some(pid)
        })
        .context("the owner of another user's socket is not resolved")?;
    Ok(holder)
}

/// As a non-root user with three capabilities the trace works, and keeps at most two of them.
fn ambient(bench: &Bench) -> Result<()> {
    let namespace = Namespace::create()?;
    let netns = namespace.inode.to_string();
    let mut command = bench.command(&["--json", "-N", &netns, "-n", "1"]);
    // SAFETY: only system calls on memory of that function, between fork and exec.
    unsafe {
        command.pre_exec(become_nobody_with_capabilities);
    }
    let tracer = Tracer::from_command(command)?;
    expect_confined(tracer.pid(), None, CAP_SYS_PTRACE | CAP_BPF)?;
    let pair = Pair::over(LOCALHOST)?;
    pair.client.arm(Keepalive::after(600))?;
    let ended = tracer.end()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    ended.end()?;
    Ok(())
}

/// The same as `setpriv --reuid … --inh-caps … --ambient-caps …`.
fn become_nobody_with_capabilities() -> io::Result<()> {
    let held = CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::SYS_PTRACE;
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    // Up to Linux 5.10 BPF maps count against RLIMIT_MEMLOCK; on later kernels a failure is
    // harmless.
    let _ = setrlimit(Resource::Memlock, unlimited);
    set_keep_capabilities(true)?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let sets = CapabilitySets {
        effective: held,
        permitted: held,
        inheritable: held,
    };
    set_capabilities(None, sets)?;
    for capability in held.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Other instances start and end, each with the sockets of its own self-test: no trace and no
/// listing shows any of these sockets.
fn self_tests_of_others(bench: &Bench) -> Result<()> {
    let rounds = if sys::is_emulated()? { 1 } else { 4 };
    let namespace = Namespace::create()?;
    let netns = namespace.inode.to_string();
    let tracer = bench.trace(&["-N", &netns])?;
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = [
            vec!["doctor"],
            vec!["list"],
            vec!["trace", "--backend", &bench.backend, "-d", "100ms"],
        ];
        let running = others.map(|arguments| {
            scope.spawn(move || -> Result<()> {
                for _ in 0..rounds {
                    let mut command = Command::new(&bench.keepalive);
                    command.args(&arguments).stdin(Stdio::null());
                    Refused::from(command)?.expect_code(0)?;
                }
                Ok(())
            })
        });
        let watching = scope.spawn(|| -> Result<u32> {
            let mut looks = 0;
            // Each source lists at least once, however fast the other instances end.
            while looks == 0 || !is_done.load(Ordering::Relaxed) {
                for source in sources(bench) {
                    let listing = Listing::of(bench, source, &["--all-netns"])?;
                    let seen = listing
                        .sockets
                        .iter()
                        .find(|row| row.number("socket.netns").ok() == Some(namespace.inode));
                    ensure!(seen.is_none(), "{source} lists {}", seen.context("none")?);
                    looks += 1;
                }
            }
            Ok(looks)
        });
        let outcomes = running.map(|other| other.join().ok().context("a thread panicked"));
        is_done.store(true, Ordering::Relaxed);
        let looks = watching.join().ok().context("the listing panicked")??;
        ensure!(looks > 0, "nothing was listed");
        outcomes.into_iter().try_for_each(|outcome| outcome?)
    })?;
    let ended = tracer.interrupt()?;
    let seen = ended.lines.iter().find(|event| event.key().is_some());
    ensure!(seen.is_none(), "traced: {}", seen.context("none")?);
    ended.end()?.expect("sockets", 0)?;
    Ok(())
}
