//! Listings of several namespaces, of short-lived sockets, and the initial listing of a trace.

use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::listing::{Listing, command, sources};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys::{self, Child};
use crate::kit::tracer::PATIENCE;
use crate::limits::refusals::{mount, private_mounts};
use crate::list::sockets::NOBODY;
use crate::trace::families::set_defaults;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "list_all_netns",
        run: all_netns,
    },
    HardCase {
        name: "list_bad_namespaces",
        run: bad_namespaces,
    },
    HardCase {
        name: "list_churn",
        run: churn,
    },
    HardCase {
        name: "list_seeds_trace",
        run: seeds_trace,
    },
];

/// Three namespaces, each with its own keepalive sysctls.
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
                .with_context(|| format!("{source}: no socket of {netns}: {}", listing.end))?;
            row.expect("keepalive.time_ms", time * 1000)?;
            let namespaces = listing.end.get("namespaces").as_array();
            let entry = namespaces
                .into_iter()
                .flatten()
                .find(|namespace| namespace["netns"] == *netns)
                .with_context(|| format!("{netns} is missing in {}", listing.end))?;
            ensure!(entry["sockets"] == 3, "{entry}");
            ensure!(entry["sysctl"]["time_ms"] == time * 1000, "{entry}");
        }
        // With a filter the namespaces without a socket to show are left out.
        let (_, netns, pair, _) = &places[0];
        let port = pair.client.local()?.port().to_string();
        let listing = Listing::of(bench, source, &["--all-netns", "-L", &port])?;
        let shown = listing.end.get("namespaces").as_array();
        ensure!(
            shown.is_some_and(|shown| shown.iter().any(|it| it["netns"] == *netns)
                && shown.iter().all(|it| it["sockets"] != 0)),
            "{}",
            listing.end
        );
    }
    Ok(())
}

/// A file in /run/netns that is not a namespace, and namespaces that an unprivileged user may not
/// enter: the remaining namespaces are listed, and the omissions are reported.
fn bad_namespaces(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    private_mounts()?;
    std::fs::create_dir_all("/run/netns").context("/run/netns")?;
    mount(c"tmpfs", c"/run/netns", c"").context("a /run/netns of our own")?;
    std::fs::write("/run/netns/plain-file", "").context("a file that is not a namespace")?;
    for source in sources(bench) {
        let listing = Listing::of(bench, source, &["--all-netns"])?;
        listing.row(&pair.client)?;
        let missing = listing.end.get("incomplete").to_string();
        ensure!(!missing.contains("cannot be opened"), "{missing}");
        let named = command(bench, source, &["-N", "plain-file"]);
        Refused::from(named)?
            .expect_code(2)?
            .expect_sentence(&["no network namespace"])?;
    }
    let mut unprivileged = command(bench, "auto", &["--all-netns", "--json"]);
    unprivileged.uid(NOBODY).gid(NOBODY);
    let listing = Listing::from(unprivileged)?;
    listing.row(&pair.client)?;
    let missing = listing.end.get("incomplete").to_string();
    for part in [
        "\"namespace\"",
        "the network namespaces of this many threads are not readable",
        "run as root",
    ] {
        ensure!(missing.contains(part), "{part}: {missing}");
    }
    Ok(())
}

/// 2,000 sockets in three namespaces, while other sockets are opened and closed: every listing
/// shows each of the 2,000 exactly once.
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
        // The churn runs in the third namespace.
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
        let made = churning.join().ok().context("the churn panicked")??;
        ensure!(made > 0, "the churn made no connection");
        outcome
    })
}

fn lists_all(bench: &Bench, source: &str, stable: &[(u64, Pair)]) -> Result<()> {
    // `Listing::from` rejects duplicates.
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

/// A socket older than the tracer becomes an orphan before its first event: its owner comes from
/// the listing at the start.
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
        .context("the orphan's end is not reported")?;
    closed.expect("process.pid", std::process::id())?;
    tracer.interrupt()?.end()?;
    Ok(())
}
