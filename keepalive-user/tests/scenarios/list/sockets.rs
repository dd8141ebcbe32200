//! Listings: settings, owners, filters, namespaces, and short-lived sockets.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::applicability::without_mptcp;
use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::listing::{Listing, command, sources};
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, LOCALHOST_V6, Pair, Tcp};
use crate::kit::ss;
use crate::kit::sys::{self, Child};
use crate::limits::hard_cases::Borrowed;
use crate::limits::refusals::{mount, private_mounts};
use crate::trace::families::set_defaults;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "list_settings",
        run: settings,
    },
    HardCase {
        name: "list_families",
        run: families,
    },
    HardCase {
        name: "list_owners",
        run: owners,
    },
    HardCase {
        name: "list_filters",
        run: filters,
    },
    HardCase {
        name: "list_unprivileged",
        run: unprivileged,
    },
    HardCase {
        name: "list_few_files",
        run: few_files,
    },
    HardCase {
        name: "list_watch",
        run: watch,
    },
    HardCase {
        name: "list_text",
        run: text,
    },
];

pub const NOBODY: u32 = 65534;

/// Values and their origin.
fn settings(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    set_defaults(1234, 56, 7)?;
    let [all, idle, none] = [
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
    ];
    let own = Keepalive {
        idle: 30,
        interval: 4,
        probes: 5,
        user_timeout_ms: 45_678,
    };
    all.client.arm(own)?;
    idle.client.set_idle(77)?;
    idle.client.switch_keepalive(true)?;
    for source in sources(bench) {
        let listing = Listing::of(bench, source, &[])?;
        // sock_diag does not report whether a value that equals the sysctl was set on the socket.
        let sysctl = if listing.is_complete_source() {
            json!("sysctl")
        } else {
            json!(null)
        };
        let expected = json!({
            "enabled": true, "time_ms": 30_000, "time_origin": "socket", "interval_ms": 4000,
            "interval_origin": "socket", "probes": 5, "probes_origin": "socket",
            "user_timeout_ms": 45_678,
        });
        listing.row(&all.client)?.expect("keepalive", expected)?;
        let expected = json!({
            "enabled": true, "time_ms": 77_000, "time_origin": "socket", "interval_ms": 56_000,
            "interval_origin": sysctl, "probes": 7, "probes_origin": sysctl, "user_timeout_ms": 0,
        });
        listing.row(&idle.client)?.expect("keepalive", expected)?;
        let expected = json!({
            "enabled": false, "time_ms": 1_234_000, "time_origin": sysctl, "interval_ms": 56_000,
            "interval_origin": sysctl, "probes": 7, "probes_origin": sysctl, "user_timeout_ms": 0,
        });
        listing.row(&none.client)?.expect("keepalive", expected)?;
        for socket in [&all.client, &idle.client, &none.client] {
            agrees_with_getsockopt(listing.row(socket)?, socket)?;
        }
        let sysctls = json!({
            "time_ms": 1_234_000, "interval_ms": 56_000, "probes": 7, "retries2": 15,
        });
        listing.end.expect("incomplete", json!([]))?;
        ensure!(
            listing.end.get("namespaces")[0]["sysctl"] == sysctls,
            "{}",
            listing.end
        );
    }
    Ok(())
}

/// Compares the row with getsockopt(2) on the same socket.
fn agrees_with_getsockopt(row: &Event, socket: &Tcp) -> Result<()> {
    let ms = |time: Duration| time.as_millis() as u64;
    row.expect("keepalive.time_ms", ms(sockopt::tcp_keepidle(socket)?))?;
    row.expect("keepalive.interval_ms", ms(sockopt::tcp_keepintvl(socket)?))?;
    row.expect("keepalive.probes", sockopt::tcp_keepcnt(socket)?)?;
    row.expect(
        "keepalive.user_timeout_ms",
        sockopt::tcp_user_timeout(socket)?,
    )?;
    row.expect("keepalive.enabled", sockopt::socket_keepalive(socket)?)
}

/// IPv6, IPv4-mapped IPv6 as IPv4, and MPTCP subflows marked.
fn families(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let v6 = Pair::over(LOCALHOST_V6)?;
    let any = std::net::IpAddr::from([0_u16; 8]);
    let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let mapped = Pair::from(
        Tcp::new(LOCALHOST_V6)?,
        Tcp::new(LOCALHOST_V6)?,
        any,
        mapped,
    )?;
    let subflow = if without_mptcp() {
        None
    } else {
        let [client, listener] = [Tcp::new_mptcp(LOCALHOST)?, Tcp::new_mptcp(LOCALHOST)?];
        Some(Pair::from(client, listener, LOCALHOST, LOCALHOST)?)
    };
    for source in sources(bench) {
        let listing = Listing::of(bench, source, &[])?;
        listing.row(&v6.client)?.expect("socket.family", "ipv6")?;
        let row = listing.row(&mapped.client)?;
        row.expect("socket.family", "ipv4")?;
        row.expect("socket.peer.address", "127.0.0.1")?;
        if let Some(pair) = &subflow {
            listing.row(&pair.client)?.expect("socket.mptcp", true)?;
            listing.row(&v6.client)?.expect("socket.mptcp", false)?;
        }
    }
    Ok(())
}

/// A socket of one process, one of two, and one of none.
fn owners(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let shared = Pair::over(LOCALHOST)?;
    let child = Child::fork()?;
    let own = Pair::over(LOCALHOST)?;
    let waiting = Tcp::new(LOCALHOST)?;
    waiting.listen(LOCALHOST)?;
    let early = Tcp::new(LOCALHOST)?;
    early.connect(waiting.local()?)?;
    let pid = u64::from(std::process::id());
    let both = [pid, child.pid() as u64];
    for source in sources(bench) {
        let listing = Listing::of(bench, source, &[])?;
        let row = listing.row(&shared.client)?;
        let mut expected = both.to_vec();
        expected.sort_unstable();
        row.expect("pids", expected)?;
        let row = listing.row(&own.client)?;
        row.expect("pids", vec![pid])?;
        row.expect("process", json!({"pid": pid, "comm": "ka-scenarios"}))?;
        ensure!(row.get("cgroup.id").is_u64(), "no cgroup: {row}");
        agrees_with_ss(&listing)?;
        // The process that was filtered for is listed first.
        let asked = both[0].max(both[1]);
        let listing = Listing::of(bench, source, &["-p", &asked.to_string()])?;
        let row = listing.row(&shared.client)?;
        row.expect("process.pid", asked)?;
        let wide = Refused::from(command(bench, source, &["-w"]))?;
        wide.expect_code(0)?;
        let all = format!("ka-scenarios/{},{asked}", both[0].min(both[1]));
        ensure!(wide.stdout.contains(&all), "no {all}: {}", wide.stdout);
        ensure!(wide.stdout.contains("CGROUP"), "{}", wide.stdout);
        let listing = Listing::of(bench, source, &[])?;
        // A connection that is not accepted yet has no owner.
        let row = listing.between(early.peer()?, early.local()?)?;
        row.expect("process", json!(null))?;
        row.expect("inode", json!(null))?;
        row.expect("orphan", false)?;
        let unowned = Listing::of(bench, source, &["--no-owner"])?;
        unowned.row(&own.client)?.expect("process", json!(null))?;
    }
    Ok(())
}

/// Compares the owners with those that `ss` resolves by its own scan of /proc.
fn agrees_with_ss(listing: &Listing) -> Result<()> {
    let witness = ss::owners()?;
    ensure!(witness.len() >= 4, "ss found too few owners: {witness:?}");
    for (local, peer, pids) in witness {
        let row = listing.between(local.parse()?, peer.parse()?)?;
        row.expect("pids", pids.into_iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Each filter lists exactly the sockets it matches.
fn filters(bench: &Bench) -> Result<()> {
    let home = Namespace::current()?;
    let namespace = Namespace::create()?;
    let [first, _second] = [Pair::over(LOCALHOST)?, Pair::over(LOCALHOST_V6)?];
    first.client.arm(Keepalive::after(60))?;
    let text = |port: u16| port.to_string();
    let (local, remote) = (
        text(first.client.local()?.port()),
        text(first.client.peer()?.port()),
    );
    let netns = namespace.inode.to_string();
    let pid = std::process::id().to_string();
    // Without a filter: both ends of two connections, and two listeners.
    let expectations: [(&[&str], usize); 14] = [
        (&[], 6),
        (&["-L", &local], 1),
        (&["-R", &remote], 1),
        (&["-a", "127.0.0.0/8"], 3),
        (&["-a", "::1"], 3),
        (&["-4"], 3),
        (&["-6"], 3),
        (&["-p", &pid], 6),
        (&["-p", "1"], 0),
        (&["--state", "established"], 4),
        (&["--state", "listen,time-wait"], 2),
        (&["--keepalive", "on"], 1),
        (&["--keepalive", "off"], 5),
        (&["--sort", "silence", "-4"], 3),
    ];
    for source in sources(bench) {
        for (arguments, expected) in expectations {
            let listing = Listing::of(bench, source, arguments)?;
            ensure!(
                listing.sockets.len() == expected,
                "{source} {arguments:?}: {} sockets, expected {expected}: {:?}",
                listing.sockets.len(),
                listing.sockets
            );
        }
        // `-N` with a process id resolves to that process's namespace.
        let _resident = Child::fork()?;
        home.enter()?;
        let listing = Listing::of(bench, source, &["-N", &netns])?;
        ensure!(listing.sockets.len() == 6, "-N: {:?}", listing.sockets);
        namespace.enter()?;
        let listing = Listing::of(bench, source, &["--sort", "state"])?;
        let states: Vec<&str> = listing
            .sockets
            .iter()
            .map(|row| row.text("socket.state"))
            .collect();
        ensure!(states[..4] == ["established"; 4], "{states:?}");
        ensure!(states[4..] == ["listen"; 2], "{states:?}");
    }
    Ok(())
}

/// An unprivileged user may list; what that user may not see is reported.
fn unprivileged(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    let mut unprivileged = command(bench, "auto", &["--json"]);
    unprivileged.uid(NOBODY).gid(NOBODY);
    let listing = Listing::from(unprivileged)?;
    listing.end.expect("source", "sock_diag")?;
    let refused = listing.end.get("refused")[0]["reason"].to_string();
    ensure!(refused.contains("run as root"), "{refused}");
    let row = listing.row(&pair.client)?;
    row.expect("process", json!(null))?;
    row.expect("keepalive", json!(null))?;
    ensure!(row.get("silence_ms").is_u64(), "{row}");
    let incomplete = listing.end.get("incomplete").to_string();
    for what in ["\"owner\"", "\"settings\"", "run as root"] {
        ensure!(incomplete.contains(what), "{what}: {incomplete}");
    }
    // Where hidepid hides other processes, the output names it as the cause.
    private_mounts()?;
    mount(c"proc", c"/proc", c"hidepid=2").context("a /proc with hidepid=2")?;
    let mut unprivileged = command(bench, "auto", &["--json"]);
    unprivileged.uid(NOBODY).gid(NOBODY);
    let listing = Listing::from(unprivileged)?;
    listing.row(&pair.client)?.expect("process", json!(null))?;
    let incomplete = listing.end.get("incomplete").to_string();
    ensure!(incomplete.contains("hidepid"), "{incomplete}");
    // The iterator, selected explicitly, is refused.
    let mut unprivileged = command(bench, "iterator", &[]);
    unprivileged.uid(NOBODY).gid(NOBODY);
    Refused::from(unprivileged)?
        .expect_code(3)?
        .expect_sentence(&["CAP_BPF", "root"])?;
    Refused::from(command(bench, "auto", &["-N", "no-such-namespace"]))?
        .expect_code(2)?
        .expect_sentence(&["no-such-namespace", "ip netns list"])?;
    Ok(())
}

/// More processes own sockets than RLIMIT_NOFILE allows open files: the settings of each socket are
/// read nevertheless.
fn few_files(bench: &Bench) -> Result<()> {
    const PROCESSES: usize = 40;
    const FILES: u64 = 24;
    let _namespace = Namespace::create()?;
    let mut children = Vec::new();
    for _ in 0..PROCESSES {
        let pair = Pair::over(LOCALHOST)?;
        pair.client.arm(Keepalive::after(60))?;
        // Once our copies are closed, only the child holds the sockets.
        children.push(Child::fork()?);
    }
    let mut few = command(bench, "sock-diag", &["--json", "--keepalive", "on"]);
    // SAFETY: one system call between fork and exec.
    unsafe {
        few.pre_exec(|| sys::allow_open_files(FILES));
    }
    let listing = Listing::from(few)?;
    ensure!(
        listing.sockets.len() == PROCESSES,
        "the settings of {} of {PROCESSES} sockets are listed: {}",
        listing.sockets.len(),
        listing.end
    );
    Ok(())
}

/// `--watch` lists repeatedly until SIGINT or until the reader closes the pipe.
fn watch(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let _pair = Pair::over(LOCALHOST)?;
    for by_signal in [true, false] {
        let mut watch = command(bench, sources(bench)[0], &["--watch", "1", "--json"]);
        watch.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running::start(&mut watch)?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut ends = 0;
        while ends < 2 {
            let line = lines.next().context("it ended by itself")??;
            ends += u32::from(Event::parse(&line)?.is("list_end"));
        }
        if by_signal {
            sys::signal(child.id(), Signal::INT)?;
        } else {
            drop(lines);
        }
        let (status, _, stderr) = child.finish()?;
        ensure!(status.code() == Some(0), "{status}: {stderr}");
        ensure!(stderr.is_empty(), "{stderr}");
    }
    Ok(())
}

/// Every socket has a line, and control characters in a process name do not reach the terminal.
fn text(bench: &Bench) -> Result<()> {
    let _name = Borrowed::set("/proc/self/comm", "\x1b[31m\x07\rre\u{85}d")?;
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    pair.client.arm(Keepalive::after(60))?;
    thread::sleep(Duration::from_millis(10));
    for source in sources(bench) {
        let run = Refused::from(command(bench, source, &[]))?;
        run.expect_code(0)?;
        let control = run
            .stdout
            .chars()
            .find(|&character| character.is_control() && character != '\n');
        ensure!(control.is_none(), "{control:?} in {:?}", run.stdout);
        let (local, peer) = (pair.client.local()?, pair.client.peer()?);
        let line = run
            .stdout
            .lines()
            .find(|line| line.contains(&format!("{local}  {peer}")))
            .with_context(|| format!("no line for {local}: {}", run.stdout))?;
        for part in ["ESTABLISHED", "60*/1*/9", "keepalive 5", "31m"] {
            ensure!(line.contains(part), "{part:?} is not in {line}");
        }
        for part in ["LISTEN", "3 sockets", "tcp_keepalive_time 7200"] {
            ensure!(run.stdout.contains(part), "{part:?}: {}", run.stdout);
        }
    }
    Ok(())
}
