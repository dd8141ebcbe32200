//! Filters: each option shows exactly the sockets it matches.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase};
use crate::kit::event::{Event, Key};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, LOCALHOST_V6, Pair};
use crate::kit::tracer::{PATIENCE, Tracer};

pub const CASES: &[HardCase] = &[HardCase {
    name: "filters",
    run: filters,
}];

/// Four connections in one namespace and one in another, and one tracer for each filter.
fn filters(bench: &Bench) -> Result<()> {
    let home = Namespace::current()?;
    let other = Namespace::create()?;
    let elsewhere = Pair::over(LOCALHOST)?;
    let here = Namespace::create()?;
    let [first, second, third] = [
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST_V6)?,
    ];
    let key = |namespace: &Namespace, pair: &Pair| -> Result<Key> {
        Ok(Key {
            netns: namespace.inode,
            local_port: pair.client.local()?.port(),
            peer_port: pair.client.peer()?.port(),
        })
    };
    let sockets = [
        key(&here, &first)?,
        key(&here, &second)?,
        key(&here, &third)?,
        key(&other, &elsewhere)?,
    ];
    home.enter()?;
    let local_port = sockets[0].local_port.to_string();
    let remote_port = sockets[1].peer_port.to_string();
    let netns = here.inode.to_string();
    let own_pid = std::process::id().to_string();
    // `-N` excludes equal port numbers in other namespaces.
    let expectations: [(&[&str], &[usize]); 8] = [
        (&["-N", &netns], &[0, 1, 2]),
        (&["-N", &netns, "-L", &local_port], &[0]),
        (&["-N", &netns, "-R", &remote_port], &[1]),
        (&["-a", "127.0.0.0/8"], &[0, 1, 3]),
        (&["-a", "::1"], &[2]),
        (&["-4"], &[0, 1, 3]),
        (&["-6"], &[2]),
        (&["-p", &own_pid], &[0, 1, 2, 3]),
    ];
    let tracers = expectations
        .iter()
        .map(|(arguments, _)| bench.trace(arguments))
        .collect::<Result<Vec<_>>>()?;
    for pair in [&first, &second, &third, &elsewhere] {
        pair.client.cookie()?;
        pair.client.arm(Keepalive::EVERY_SECOND)?;
    }
    for (tracer, (arguments, wanted)) in tracers.into_iter().zip(expectations) {
        let wanted: BTreeSet<usize> = wanted.iter().copied().collect();
        expect_only(tracer, &sockets, &wanted).with_context(|| arguments.join(" "))?;
    }
    Ok(())
}

/// Expects timers of the matching sockets, and no event of any other socket.
fn expect_only(tracer: Tracer, sockets: &[Key], wanted: &BTreeSet<usize>) -> Result<()> {
    let filters = tracer.start.present("filters")?;
    ensure!(
        filters
            .as_object()
            .is_some_and(|filters| !filters.is_empty()),
        "`start` names no filters: {}",
        tracer.start
    );
    for &socket in wanted {
        tracer
            .wait_for(sockets[socket], 0, PATIENCE, |event| event.is("timer"))
            .with_context(|| format!("no timer of socket {socket}, {:?}", sockets[socket]))?;
    }
    let ended = tracer.interrupt()?;
    let seen = |key: &Key| ended.lines.iter().find(|line| line.key() == Some(*key));
    for (number, key) in sockets.iter().enumerate() {
        if let Some(event) = seen(key).filter(|_| !wanted.contains(&number)) {
            anyhow::bail!("an event of socket {number}, which the filter excludes: {event}");
        }
    }
    let is_event = |line: &&Event| line.get("socket.netns").as_u64().is_some();
    ensure!(ended.lines.iter().any(|line| is_event(&line)), "no events");
    Ok(())
}
