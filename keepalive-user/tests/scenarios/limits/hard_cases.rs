//! Bad input and hard cases: keepalive either works, or prints one clear sentence and exits with
//! the right code. It leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::leftovers::{Holdings, mounts};
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys;
use crate::kit::tracer::{PATIENCE, Tracer};
use crate::trace::ending::expect_counts;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "bad_missing_capability",
        run: missing_capability,
    },
    HardCase {
        name: "bad_not_root",
        run: not_root,
    },
    HardCase {
        name: "bad_kptr_restrict",
        run: kptr_restrict,
    },
    HardCase {
        name: "bad_no_btf",
        run: no_btf,
    },
    HardCase {
        name: "bad_output_unwritable",
        run: output_unwritable,
    },
    HardCase {
        name: "bad_stdout_closed",
        run: stdout_closed,
    },
    HardCase {
        name: "bad_ring_small",
        run: ring_small,
    },
    HardCase {
        name: "ring_small_filtered",
        run: ring_small_filtered,
    },
    HardCase {
        name: "bad_kill9",
        run: kill9,
    },
    HardCase {
        name: "bad_comm_control_chars",
        run: comm_control_chars,
    },
];

/// Children of this thread run as root without these capabilities.
fn give_up(capabilities: &[CapabilitySet]) -> Result<()> {
    for capability in capabilities {
        remove_capability_from_bounding_set(*capability)
            .with_context(|| format!("dropping {capability:?}"))?;
    }
    Ok(())
}

fn missing_capability(bench: &Bench) -> Result<()> {
    for (capability, name) in [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ] {
        let refused = thread::scope(|scope| {
            let run = scope.spawn(|| {
                give_up(&[CapabilitySet::SYS_ADMIN, capability])?;
                bench.output(&["-d", "1s"])
            });
            run.join().ok().context("the thread panicked")?
        })?;
        refused.expect_code(3)?.expect_sentence(&[name])?;
    }
    // CAP_BPF and CAP_PERFMON are sufficient.
    give_up(&[CapabilitySet::SYS_ADMIN])?;
    let tracer = bench.trace(&[])?;
    sees_a_timer(&tracer)?;
    let ended = tracer.interrupt()?;
    ended.end()?;
    Ok(())
}

/// An unprivileged user: the error names the missing capabilities.
fn not_root(bench: &Bench) -> Result<()> {
    const NOBODY: u32 = 65534;
    let mut command = bench.command(&["-d", "1s"]);
    command.uid(NOBODY).gid(NOBODY);
    Refused::from(command)?
        .expect_code(3)?
        .expect_sentence(&["CAP_BPF", "CAP_PERFMON", "root"])?;
    Ok(())
}

/// The tracer reports a new connection in a new namespace.
fn sees_a_timer(tracer: &Tracer) -> Result<Event> {
    let home = Namespace::current()?;
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    let watch = crate::kit::watch::Watch::new(tracer, &pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    let event = watch.decision("probe_sent");
    home.enter()?;
    event
}

/// A machine-wide sysctl, restored on drop.
pub struct Borrowed {
    path: &'static str,
    before: String,
}

impl Borrowed {
    pub fn set(path: &'static str, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).context(path)?;
        fs::write(path, value).context(path)?;
        Ok(Self { path, before })
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, self.before.trim()) {
            eprintln!("scenarios: {} is not put back: {error}", self.path);
        }
    }
}

/// With kptr_restrict=2 the addresses of kernel functions are hidden even from root.
fn kptr_restrict(bench: &Bench) -> Result<()> {
    let _hidden = Borrowed::set("/proc/sys/kernel/kptr_restrict", "2")?;
    let tracer = bench.trace(&[])?;
    sees_a_timer(&tracer)?;
    tracer.interrupt()?.end()?;
    Ok(())
}

fn no_btf(bench: &Bench) -> Result<()> {
    const KERNELS_OWN: &str = "/sys/kernel/btf/vmlinux";
    const COPY: &str = "/tmp/keepalive-scenarios.btf";
    bench
        .output(&["-d", "1s", "--btf", "/nonexistent/btf"])?
        .expect_code(1)?
        .expect_sentence(&["/nonexistent/btf"])?;
    let good = fs::read(KERNELS_OWN).context(KERNELS_OWN)?;
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n * 31 % 251) as u8).collect();
    let mut lying = good[..4096].to_vec();
    lying[12..16].fill(0xFF); // btf_header.type_len
    let broken: [&[u8]; 5] = [b"", &garbage, &good[..16], &good[..good.len() / 2], &lying];
    for bytes in broken {
        fs::write(COPY, bytes).context(COPY)?;
        bench
            .output(&["-d", "1s", "--btf", COPY])?
            .expect_code(1)?
            .expect_sentence(&[COPY])?;
    }
    fs::write(COPY, &good).context(COPY)?;
    let tracer = bench.trace(&["--btf", COPY]);
    fs::remove_file(COPY).context(COPY)?;
    let tracer = tracer?;
    sees_a_timer(&tracer)?;
    tracer.interrupt()?.end()?;
    Ok(())
}

fn output_unwritable(bench: &Bench) -> Result<()> {
    for path in ["/proc/nope/x", "/nonexistent/x", "/tmp"] {
        bench
            .output(&["-d", "1s", "-o", path])?
            .expect_code(1)?
            .expect_sentence(&[path])?;
    }
    Ok(())
}

/// `keepalive trace | head -1`
fn stdout_closed(bench: &Bench) -> Result<()> {
    let mut command = bench.command(&["--json"]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running::start(command)?;
    let mut first = String::new();
    {
        let stdout = child.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut first)?;
    }
    ensure!(Event::parse(&first)?.is("start"), "first line: {first}");
    // No event is printed, so no write can fail with EPIPE: the tracer must poll for the closed
    // pipe.
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let (status, _, stderr) = child.finish()?;
    ensure!(status.success(), "{status}, stderr: {stderr}");
    ensure!(stderr.is_empty(), "stderr must be empty: {stderr}");
    Ok(())
}

/// A ring buffer of eleven records, a burst, and a stopped tracer: losses are counted and printed,
/// and the printed events are in order.
fn ring_small(bench: &Bench) -> Result<()> {
    const SOCKETS: usize = 100;
    let tracer = bench.trace(&["--ring-bytes", "4096"])?;
    tracer.start.expect("ring_bytes", 4096)?;
    let _namespace = Namespace::create()?;
    let pairs = (0..SOCKETS)
        .map(|_| Pair::over(LOCALHOST))
        .collect::<Result<Vec<_>>>()?;
    sys::signal(tracer.pid(), Signal::STOP)?;
    for pair in &pairs {
        pair.client.arm(Keepalive::EVERY_SECOND)?;
    }
    thread::sleep(Duration::from_secs(3));
    sys::signal(tracer.pid(), Signal::CONT)?;
    tracer
        .wait_for_line(PATIENCE, |line| line.is("lost"))
        .context("no `lost` line")?;
    drop(pairs);
    let ended = tracer.interrupt()?;
    ensure!(ended.status.success(), "{}", ended.status);
    let end = ended.end()?;
    let mut lost = 0;
    for line in ended.lines.iter().filter(|line| line.is("lost")) {
        line.expect("where", "ring")?;
        line.expect_within("count", 1..=u64::MAX)?;
        lost += line.number("count")?;
    }
    ensure!(lost > 0, "nothing was lost");
    end.expect("lost.ring", lost)?;
    expect_counts(end, &ended.lines)?;
    expect_order(&ended.lines)
}

/// Sockets that the filter excludes take no space in the ring buffer and are not counted as lost.
fn ring_small_filtered(bench: &Bench) -> Result<()> {
    const OTHERS: usize = 100;
    let _namespace = Namespace::create()?;
    let wanted = Pair::over(LOCALHOST)?;
    let others = (0..OTHERS)
        .map(|_| Pair::over(LOCALHOST))
        .collect::<Result<Vec<_>>>()?;
    let port = wanted.client.local()?.port().to_string();
    let tracer = bench.trace(&["--ring-bytes", "4096", "-L", &port])?;
    sys::signal(tracer.pid(), Signal::STOP)?;
    for pair in &others {
        pair.client.arm(Keepalive::EVERY_SECOND)?;
    }
    wanted.client.arm(Keepalive::EVERY_SECOND)?;
    thread::sleep(Duration::from_secs(3));
    sys::signal(tracer.pid(), Signal::CONT)?;
    tracer
        .wait_for_line(PATIENCE, |line| line.is_timer("probe_sent"))
        .context("no event of the selected socket")?;
    let ended = tracer.interrupt()?;
    ended.end()?.expect("lost.ring", 0)?;
    drop(others);
    Ok(())
}

/// The events of each socket are printed in the order in which they happened.
fn expect_order(lines: &[Event]) -> Result<()> {
    let mut latest = std::collections::HashMap::new();
    for line in lines.iter().filter(|line| !line.is("answer")) {
        let Some(key) = line.key() else { continue };
        let before = latest.insert(key, line.at_ns()).unwrap_or(0);
        ensure!(before <= line.at_ns(), "out of order: {line}");
    }
    Ok(())
}

/// After SIGKILL the kernel frees all BPF objects.
fn kill9(bench: &Bench) -> Result<()> {
    let before = mounts()?;
    let tracer = bench.trace(&[])?;
    let holdings = Holdings::of(tracer.pid())?;
    ensure!(mounts()? == before, "mounts changed, they were: {before}");
    ensure!(
        holdings.programs() > 0,
        "the tracer holds no programs? This check sees nothing"
    );
    sys::signal(tracer.pid(), Signal::KILL)?;
    tracer.end()?;
    holdings.expect_gone()
}

/// A process name may contain control characters; they must not reach the terminal.
fn comm_control_chars(bench: &Bench) -> Result<()> {
    const NAME: &str = "\x1b[31m\x07\rre\u{85}d";
    let _name = Borrowed::set("/proc/self/comm", NAME)?;
    let netns = Namespace::create()?.inode.to_string();
    let mut outputs = Vec::new();
    for format in [&["--json"][..], &[]] {
        let arguments = [&["-N", &netns, "-d", "4s"], format].concat();
        let pair = Pair::over(LOCALHOST)?;
        let arming = thread::spawn(move || -> Result<Pair> {
            thread::sleep(Duration::from_millis(500));
            pair.client.arm(Keepalive::EVERY_SECOND)?;
            Ok(pair)
        });
        let output = bench.output(&arguments)?;
        ensure!(matches!(arming.join(), Ok(Ok(_))), "arming failed");
        output.expect_code(0)?;
        let control = output
            .stdout
            .chars()
            .find(|&character| character.is_control() && character != '\n');
        ensure!(control.is_none(), "{control:?} in {:?}", output.stdout);
        ensure!(
            output.stdout.contains("31m"),
            "the name is nowhere in {}",
            output.stdout
        );
        outputs.push(output.stdout);
    }
    let timer = outputs[0]
        .lines()
        .filter_map(|line| Event::parse(line).ok())
        .find(|event| event.is("timer"))
        .context("no timer in the JSON output")?;
    timer.expect("process.comm", NAME)
}
