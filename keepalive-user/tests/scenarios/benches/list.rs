//! The benchmark of `list`, against `ss` on the same sockets, run alternately.
//!
//! Prints medians and ratios, and asserts nothing about time.

use std::ffi::c_int;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, Tcp};
use crate::kit::sys::{self, Child};

/// Connections that one process holds, both ends: below the usual hard limit of open files.
const PER_PROCESS: usize = 8000;
const RUNS: usize = 9;
/// `ss -p` resolves each socket's owner by a linear search; for more sockets it takes minutes.
const SLOW_RUNS: usize = 3;

/// Runs the benchmark for each number of sockets.
pub fn run(keepalive: &str, sizes: &[usize]) -> Result<()> {
    println!(
        "{:>8}  {:44} {:>10} {:>21} {:>8} {:>9}",
        "sockets", "command", "median ms", "min–max", "ratio", "peak MB"
    );
    for &size in sizes {
        let home = Namespace::current()?;
        let _namespace = Namespace::create()?;
        let _farm = Farm::new(size)?;
        let list = [keepalive, "list"];
        let no_owner = [keepalive, "list", "--no-owner"];
        let diag = [keepalive, "list", "--source", "sock-diag"];
        let diag_no_owner = [keepalive, "list", "--source", "sock-diag", "--no-owner"];
        compare(size, RUNS, &["ss", "-tnoH"], &[&no_owner, &diag_no_owner])?;
        compare(size, SLOW_RUNS, &["ss", "-tnopH"], &[&list, &diag])?;
        home.enter()?;
    }
    Ok(())
}

/// Times the commands alternately; the first is the reference for the ratios.
fn compare(size: usize, runs: usize, base: &[&str], others: &[&[&str]]) -> Result<()> {
    let commands: Vec<&[&str]> = std::iter::once(base)
        .chain(others.iter().copied())
        .collect();
    for command in &commands {
        let listed = count(command)?;
        ensure!(
            listed >= size,
            "{command:?} shows {listed} of {size} sockets"
        );
    }
    let mut times = vec![Vec::new(); commands.len()];
    let mut peaks = vec![0; commands.len()];
    for _ in 0..runs {
        for (index, command) in commands.iter().enumerate() {
            let (seconds, kilobytes) = measure(command)?;
            times[index].push(seconds);
            peaks[index] = peaks[index].max(kilobytes);
        }
    }
    let mut base_median = None;
    for (index, command) in commands.iter().enumerate() {
        let times = &mut times[index];
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let ratio = median / *base_median.get_or_insert(median);
        let name = command[0].rsplit('/').next().unwrap_or_default();
        println!(
            "{size:>8}  {:44} {:>10.1} {:>10.1}–{:<10.1} {ratio:>8.3} {:>9.1}",
            [&[name], &command[1..]].concat().join(" "),
            median * 1e3,
            times[0] * 1e3,
            times[times.len() - 1] * 1e3,
            peaks[index] as f64 / 1024.0
        );
    }
    Ok(())
}

/// Lines that show an established socket.
fn count(command: &[&str]) -> Result<usize> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter(|line| line.starts_with("ESTAB"))
        .count())
}

/// Wall time of the whole process in seconds, and its peak memory in kilobytes.
fn measure(command: &[&str]) -> Result<(f64, i64)> {
    let begin = Instant::now();
    let child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut status = 0;
    // SAFETY: all-zero is a valid rusage; both pointers are to locals, and the child is ours.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = child.id() as libc::pid_t;
        sys::check(libc::wait4(pid, &raw mut status, 0, &raw mut usage))?;
        usage
    };
    ensure!(status == 0, "{command:?} ended with status {status}");
    Ok((begin.elapsed().as_secs_f64(), usage.ru_maxrss))
}

/// Processes that hold connected sockets in this namespace until dropped.
struct Farm {
    lines: Vec<UnixStream>,
    children: Vec<Child>,
}

impl Farm {
    fn new(sockets: usize) -> Result<Self> {
        let mut farm = Self {
            lines: Vec::new(),
            children: Vec::new(),
        };
        let mut left = sockets.div_ceil(2);
        while left > 0 {
            let connections = left.min(PER_PROCESS);
            left -= connections;
            let number = farm.children.len() as u8 + 1;
            let (ours, theirs) = UnixStream::pair()?;
            let mut ends = Some((ours, theirs));
            // fork requires that this process has no other thread.
            let child = Child::start(|| {
                let Some((ours, theirs)) = ends.take() else {
                    return 1;
                };
                drop(ours);
                farm.lines.clear();
                c_int::from(hold(number, connections, theirs).is_err())
            })?;
            farm.children.push(child);
            let (mut ours, theirs) = ends.context("an end of the pair is missing")?;
            drop(theirs);
            ours.read_exact(&mut [0])
                .with_context(|| format!("process {number} could not connect"))?;
            farm.lines.push(ours);
            eprintln!(
                "[farm] {} of {sockets} sockets",
                sockets - 2 * left.min(sockets / 2)
            );
        }
        Ok(farm)
    }
}

/// Connects, reports that, and keeps the sockets open until the other end of the pipe is closed.
fn hold(number: u8, connections: usize, mut line: UnixStream) -> Result<()> {
    sys::allow_open_files(2 * connections as u64 + 100)?;
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, number));
    let listener = Tcp::new(address)?;
    listener.listen(address)?;
    let to = SocketAddr::new(address, listener.local()?.port());
    let mut held = Vec::new();
    for index in 0..connections {
        let client = Tcp::new(address)?;
        if index % 2 == 0 {
            client.arm(Keepalive::after(600))?;
        }
        client.connect(to)?;
        held.push((client, listener.accept()?));
    }
    line.write_all(b"x")?;
    // The other end never sends: the read returns when it is closed.
    let _ = line.read(&mut [0])?;
    Ok(())
}
