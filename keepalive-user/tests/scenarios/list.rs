//! Listings: settings, owners, filters, namespaces, and sockets that come and go.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::applicability::without_mptcp;
use crate::bench::{Bench, HardCase, Refused};
use crate::event::Event;
use crate::families::set_defaults;
use crate::hard_cases::Borrowed;
use crate::listing::{Listing, command, sources};
use crate::net::Namespace;
use crate::refusals::{mount, private_mounts};
use crate::socket::{Keepalive, LOCALHOST, LOCALHOST_V6, Pair, Tcp};
use crate::sys;
use crate::tracer::PATIENCE;

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
        name: "list_all_netns",
        run: all_netns,
    },
    HardCase {
        name: "list_churn",
        run: churn,
    },
    HardCase {
        name: "list_unprivileged",
        run: unprivileged,
    },
    HardCase {
        name: "list_watch",
        run: watch,
    },
    HardCase {
        name: "list_text",
        run: text,
    },
    HardCase {
        name: "list_seeds_trace",
        run: seeds_trace,
    },
];

const NOBODY: u32 = 65534;

/// Values and where they come from.
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
        // sock_diag does not tell whether a value that equals the sysctl was set.
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

/// The witness: the kernel's own answer for the same socket.
fn agrees_with_getsockopt(row: &Event, socket: &Tcp) -> Result<()> {
    let tcp = |name| -> Result<u64> {
        let value: i32 = sys::get_option(socket, libc::IPPROTO_TCP, name)?;
        Ok(value as u64)
    };
    row.expect("keepalive.time_ms", tcp(libc::TCP_KEEPIDLE)? * 1000)?;
    row.expect("keepalive.interval_ms", tcp(libc::TCP_KEEPINTVL)? * 1000)?;
    row.expect("keepalive.probes", tcp(libc::TCP_KEEPCNT)?)?;
    row.expect("keepalive.user_timeout_ms", tcp(libc::TCP_USER_TIMEOUT)?)?;
    let on: i32 = sys::get_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE)?;
    row.expect("keepalive.enabled", on != 0)
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

/// A process of ours that only waits, with all that it inherited.
struct Child(libc::pid_t);

impl Child {
    fn fork() -> Result<Self> {
        // SAFETY: the child makes one system call after the other and allocates nothing.
        let pid = sys::check(unsafe { libc::fork() }).context("fork")?;
        if pid == 0 {
            loop {
                // SAFETY: takes no pointers.
                unsafe { libc::pause() };
            }
        }
        Ok(Self(pid))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: a child of ours that nobody else waits for; a null status is allowed.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
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
    let both = [pid, child.0 as u64];
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
        // Not accepted yet: nobody's.
        let row = listing.between(early.peer()?, early.local()?)?;
        row.expect("process", json!(null))?;
        row.expect("inode", json!(null))?;
        row.expect("orphan", false)?;
        let unowned = Listing::of(bench, source, &["--no-owner"])?;
        unowned.row(&own.client)?.expect("process", json!(null))?;
    }
    Ok(())
}

/// Each filter lists exactly the sockets it names.
fn filters(bench: &Bench) -> Result<()> {
    let home = Namespace::current()?;
    let namespace = Namespace::create()?;
    let [first, second] = [Pair::over(LOCALHOST)?, Pair::over(LOCALHOST_V6)?];
    first.client.arm(Keepalive::after(60))?;
    let text = |port: u16| port.to_string();
    let (local, remote) = (
        text(first.client.local()?.port()),
        text(first.client.peer()?.port()),
    );
    let netns = namespace.inode.to_string();
    let pid = std::process::id().to_string();
    // All: two connections of two ends and two listeners.
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
        // A namespace is found by who is in it.
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

/// Three namespaces with defaults of their own.
fn all_netns(bench: &Bench) -> Result<()> {
    let home = Namespace::current()?;
    let mut places = Vec::new();
    for time in [100, 200, 300] {
        let namespace = Namespace::create()?;
        set_defaults(time, 10, 3)?;
        let pair = Pair::over(LOCALHOST)?;
        pair.client.switch_keepalive(true)?;
        places.push((time, namespace.inode, pair, Child::fork()?));
    }
    home.enter()?;
    for source in sources(bench) {
        let listing = Listing::of(bench, source, &["--all-netns"])?;
        for (time, netns, pair, _) in &places {
            let local = pair.client.local()?.port();
            let row = listing
                .sockets
                .iter()
                .find(|row| {
                    row.number("socket.netns").ok() == Some(*netns)
                        && row.number("socket.local.port").ok() == Some(local.into())
                        && row.text("socket.state") == "established"
                        && row.get("keepalive.enabled") == true
                })
                .with_context(|| format!("{source}: nothing of {netns}: {}", listing.end))?;
            row.expect("keepalive.time_ms", time * 1000)?;
            let namespaces = listing.end.get("namespaces").as_array();
            let told = namespaces
                .into_iter()
                .flatten()
                .find(|namespace| namespace["netns"] == *netns)
                .with_context(|| format!("{netns} is missing in {}", listing.end))?;
            ensure!(told["sockets"] == 3, "{told}");
            ensure!(told["sysctl"]["time_ms"] == time * 1000, "{told}");
        }
    }
    Ok(())
}

/// 2,000 sockets in three namespaces, while others come and go: each is listed once, every time.
fn churn(bench: &Bench) -> Result<()> {
    const PAIRS: usize = 333;
    sys::allow_open_files(6000).context("RLIMIT_NOFILE")?;
    let home = Namespace::current()?;
    let mut stable = Vec::new();
    let mut children = Vec::new();
    for _ in 0..3 {
        let namespace = Namespace::create()?;
        children.push(Child::fork()?);
        for _ in 0..PAIRS {
            stable.push((namespace.inode, Pair::over(LOCALHOST)?));
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // In the last of the three.
        let churning = scope.spawn(|| -> Result<u64> {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                drop(Pair::over(LOCALHOST)?);
                made += 1;
            }
            Ok(made)
        });
        home.enter()?;
        let outcome = sources(bench)
            .iter()
            .try_for_each(|source| (0..3).try_for_each(|_| lists_all(bench, source, &stable)));
        stop.store(true, Ordering::Relaxed);
        let made = churning.join().ok().context("the churning thread died")??;
        ensure!(made > 0, "nothing came and went");
        outcome
    })
}

fn lists_all(bench: &Bench, source: &str, stable: &[(u64, Pair)]) -> Result<()> {
    // Duplicates are refused there.
    let listing = Listing::of(bench, source, &["--all-netns", "--state", "established"])?;
    ensure!(!listing.stderr.contains("panicked"), "{}", listing.stderr);
    let mut listed: Vec<(u64, u64, u64)> = listing
        .sockets
        .iter()
        .map(|row| {
            Ok((
                row.number("socket.netns")?,
                row.number("socket.local.port")?,
                row.number("socket.peer.port")?,
            ))
        })
        .collect::<Result<_>>()?;
    listed.sort_unstable();
    for (netns, pair) in stable {
        let (local, peer) = (
            u64::from(pair.client.local()?.port()),
            u64::from(pair.client.peer()?.port()),
        );
        for key in [(*netns, local, peer), (*netns, peer, local)] {
            ensure!(
                listed.binary_search(&key).is_ok(),
                "{source}: {key:?} is not among the {} listed",
                listed.len()
            );
        }
    }
    Ok(())
}

/// Anybody may list; what is kept from them is said.
fn unprivileged(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    let mut anybody = command(bench, "auto", &["--json"]);
    anybody.uid(NOBODY).gid(NOBODY);
    let listing = Listing::from(anybody)?;
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
    // Where even the existence of other processes is hidden, that is named as the cause.
    private_mounts()?;
    mount(c"proc", c"/proc", c"hidepid=2").context("a /proc with hidepid=2")?;
    let mut anybody = command(bench, "auto", &["--json"]);
    anybody.uid(NOBODY).gid(NOBODY);
    let listing = Listing::from(anybody)?;
    listing.row(&pair.client)?.expect("process", json!(null))?;
    let incomplete = listing.end.get("incomplete").to_string();
    ensure!(incomplete.contains("hidepid"), "{incomplete}");
    // Asked for by name, it is refused.
    let mut anybody = command(bench, "iterator", &[]);
    anybody.uid(NOBODY).gid(NOBODY);
    Refused::from(anybody)?
        .expect_code(3)?
        .expect_sentence(&["CAP_BPF", "root"])?;
    Refused::from(command(bench, "auto", &["-N", "no-such-namespace"]))?
        .expect_code(2)?
        .expect_sentence(&["no-such-namespace", "ip netns list"])?;
    Ok(())
}

/// Again and again, until Ctrl-C; a reader that leaves ends it too.
fn watch(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let _pair = Pair::over(LOCALHOST)?;
    for by_signal in [true, false] {
        let mut child = command(bench, sources(bench)[0], &["--watch", "1", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut ends = 0;
        while ends < 2 {
            let line = lines.next().context("it ended by itself")??;
            ends += u32::from(Event::parse(&line)?.is("list_end"));
        }
        if by_signal {
            sys::signal(child.id(), libc::SIGINT)?;
        } else {
            drop(lines);
        }
        let status = child.wait()?;
        let mut stderr = String::new();
        if let Some(mut pipe) = child.stderr.take() {
            pipe.read_to_string(&mut stderr)?;
        }
        ensure!(status.code() == Some(0), "{status}: {stderr}");
        ensure!(stderr.is_empty(), "{stderr}");
    }
    Ok(())
}

/// Every socket has its line; a process's name commands no terminal.
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
        for part in ["ESTABLISHED", "60*/1*/9", "keepalive 59s", "31m"] {
            ensure!(line.contains(part), "{part:?} is not in {line}");
        }
        for part in ["LISTEN", "3 sockets", "tcp_keepalive_time 7200"] {
            ensure!(run.stdout.contains(part), "{part:?}: {}", run.stdout);
        }
    }
    Ok(())
}

/// A socket older than the tracer loses its file before anything happens to it: its owner is known
/// from the listing at the start.
fn seeds_trace(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let _resident = Child::fork()?;
    let Pair { client, server, .. } = Pair::over(LOCALHOST)?;
    client.arm(Keepalive::after(600).user_timeout_ms(1000))?;
    let cookie = client.cookie()?;
    let tracer = bench.trace(&[])?;
    server.deafen()?;
    drop(client);
    let closed = tracer
        .wait_for_line(PATIENCE, |event| {
            event.is("closed") && event.text("socket.cookie") == cookie
        })
        .context("the orphan's end is not told")?;
    closed.expect("process.pid", std::process::id())?;
    tracer.interrupt()?.end()?;
    Ok(())
}
