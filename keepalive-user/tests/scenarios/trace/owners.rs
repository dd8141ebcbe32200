//! The owner of a socket that moves to a child, to another process, or to another program; and how
//! much CPU time its resolution may take.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt;

use crate::harness::bench::{Bench, HardCase};
use crate::kit::event::{Event, Key};
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::sys::{self, Child};
use crate::kit::tracer::{PATIENCE, Tracer};

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "fork_after_accept",
        run: fork_after_accept,
    },
    HardCase {
        name: "descriptor_handed_over",
        run: descriptor_handed_over,
    },
    HardCase {
        name: "exec_keeps_the_socket",
        run: exec_keeps_the_socket,
    },
    HardCase {
        name: "churn_of_short_connections",
        run: churn_of_short_connections,
    },
];

/// Follows the server's end of a connection in its own namespace.
struct Followed {
    tracer: Tracer,
    key: Key,
    next: usize,
}

impl Followed {
    fn new(bench: &Bench, namespace: &Namespace, socket: &Tcp) -> Result<Self> {
        Ok(Self {
            tracer: bench.trace(&["-N", &namespace.inode.to_string()])?,
            key: Key {
                netns: namespace.inode,
                local_port: socket.local()?.port(),
                peer_port: socket.peer()?.port(),
            },
            next: 0,
        })
    }

    fn next(&mut self, kind: &str) -> Result<Event> {
        let (number, event) = self
            .tracer
            .wait_for(self.key, self.next, PATIENCE, |event| event.is(kind))
            .with_context(|| format!("no {kind} of {:?}", self.key))?;
        self.next = number + 1;
        Ok(event)
    }

    /// Its timers name this owner, after at most two without an owner, and never another process.
    fn expect_owner(&mut self, pid: i32, comm: &str) -> Result<()> {
        let mut unresolved = 0;
        for _ in 0..4 {
            let timer = self.next("timer")?;
            if timer.present("process")?.is_null() {
                unresolved += 1;
                continue;
            }
            timer.expect("process.pid", pid)?;
            timer.expect("process.comm", comm)?;
        }
        ensure!(unresolved <= 2, "{unresolved} timers without an owner");
        Ok(())
    }
}

/// A server that accepts, sets options, forks, and closes its own copy, like PostgreSQL.
fn fork_after_accept(bench: &Bench) -> Result<()> {
    let namespace = Namespace::create()?;
    let Pair { client, server, .. } = Pair::over(LOCALHOST)?;
    let mut followed = Followed::new(bench, &namespace, &server)?;
    server.arm(Keepalive::EVERY_SECOND)?;
    let child = Child::fork()?;
    drop(server);
    let armed = followed.next("armed")?;
    armed.expect("process.pid", std::process::id())?;
    followed.expect_owner(child.pid(), "ka-scenarios")?;
    // The child closes the last descriptor when it exits.
    let pid = child.pid();
    drop(child);
    drop(client);
    followed
        .next("closed")?
        .expect("process.pid", pid)
        .context("closed by the child")
}

/// A process passes a connection to a process that is not its child (SCM_RIGHTS).
fn descriptor_handed_over(bench: &Bench) -> Result<()> {
    let namespace = Namespace::create()?;
    let (ours, theirs) = UnixStream::pair()?;
    let receiver = Child::run(|| sys::receive_descriptor(&theirs))?;
    let Pair { client, server, .. } = Pair::over(LOCALHOST)?;
    let mut followed = Followed::new(bench, &namespace, &server)?;
    server.arm(Keepalive::EVERY_SECOND)?;
    // This process owns it for longer than the tracer trusts an owner without checking again.
    for _ in 0..2 {
        let timer = followed.next("timer")?;
        timer.expect("process.pid", std::process::id())?;
    }
    sys::send_descriptor(&ours, &server)?;
    drop(server);
    // The timer may have run before the descriptor was closed here.
    followed.next("timer")?;
    followed.expect_owner(receiver.pid(), "ka-scenarios")?;
    drop(client);
    Ok(())
}

/// A process arms a socket and executes another program, which inherits it.
fn exec_keeps_the_socket(bench: &Bench) -> Result<()> {
    let namespace = Namespace::create()?;
    let Pair { client, server, .. } = Pair::over(LOCALHOST)?;
    let mut followed = Followed::new(bench, &namespace, &server)?;
    let inherited = server.as_fd().try_clone_to_owned()?;
    let mut command = Command::new(&bench.keepalive);
    // `replay` waits for a recording that never arrives.
    command
        .args(["replay", "/proc/self/fd/0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: between fork and exec there are system calls only.
    unsafe {
        command.pre_exec(move || {
            sys::keep_open_on_exec(&inherited)?;
            let second = Duration::from_secs(1);
            sockopt::set_tcp_keepidle(&inherited, second)?;
            sockopt::set_tcp_keepintvl(&inherited, second)?;
            sockopt::set_socket_keepalive(&inherited, true)?;
            Ok(())
        });
    }
    let child = Running::start(&mut command)?;
    // `command` holds a duplicate.
    drop((command, server));
    let outcome = followed.expect_owner(child.id().cast_signed(), "keepalive");
    drop((child, client));
    outcome
}

/// Number of descriptors of an unrelated process.
const DESCRIPTORS: u32 = 18_000;
const CHURN: Duration = Duration::from_secs(6);

/// Short connections with keepalive while another process holds many descriptors: each connection
/// has an owner from its first event on, the tracer takes little CPU time, and it ends promptly.
fn churn_of_short_connections(bench: &Bench) -> Result<()> {
    sys::allow_open_files(u64::from(DESCRIPTORS) + 1000).context("RLIMIT_NOFILE")?;
    let many = UnixStream::pair()?.0;
    let crowd = Child::run(|| sys::duplicate(&many, DESCRIPTORS))?;
    let held = format!("/proc/{}/fd", crowd.pid());
    let deadline = Instant::now() + PATIENCE;
    while fs::read_dir(&held)?.count() < DESCRIPTORS as usize {
        ensure!(Instant::now() < deadline, "no {DESCRIPTORS} descriptors");
        thread::sleep(Duration::from_millis(50));
    }
    let namespace = Namespace::create()?;
    let listener = Tcp::new(LOCALHOST)?;
    listener.switch_keepalive(true)?;
    listener.listen(LOCALHOST)?;
    let tracer = bench.trace(&["-N", &namespace.inode.to_string()])?;
    let (before, begin) = (cpu_ticks(tracer.pid())?, Instant::now());
    let mut connections = 0;
    while begin.elapsed() < CHURN {
        let client = Tcp::new(LOCALHOST)?;
        client.switch_keepalive(true)?;
        client.connect(listener.local()?)?;
        drop(listener.accept()?);
        drop(client);
        connections += 1;
        thread::sleep(Duration::from_millis(20));
    }
    let ticks = cpu_ticks(tracer.pid())? - before;
    // Ticks of 10 ms. The limit for all work of the tracer is a tenth of a CPU; an emulated CPU is
    // about ten times slower. A tracer that scanned all descriptors would exceed both limits.
    let share = if sys::is_emulated()? { 3 } else { 10 };
    let most = begin.elapsed().as_millis() as u64 / 10 / share;
    ensure!(ticks <= most, "{ticks} ticks of CPU, at most {most}");
    let asked = sys::monotonic_ns();
    let ended = tracer.interrupt()?;
    let took = ended.end()?.at_ns().saturating_sub(asked);
    ensure!(took < 1_000_000_000, "the end took {took} ns");
    let own = std::process::id();
    let mut closed = 0;
    for event in &ended.lines {
        let connected = event.is("armed") && event.text("cause") == "connect";
        if connected || event.is("closed") {
            event.expect("process.pid", own)?;
        }
        closed += u64::from(event.is("closed"));
    }
    ensure!(
        closed >= 2 * (connections - 1),
        "{closed} ends of {connections} connections"
    );
    Ok(())
}

/// CPU time of a process so far, user and system, in ticks of USER_HZ (100 on every kernel).
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(times.next().context("no time")?.parse()?) };
    Ok(next()? + next()?)
}
