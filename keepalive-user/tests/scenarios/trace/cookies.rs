//! Sockets that nobody asked the kernel a cookie for: what tells them apart is where and when they
//! were, and the kernel gives the memory and the address of one to the next.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::event::{Event, Key};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Tcp};
use crate::kit::tracer::PATIENCE;

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "same_address_without_cookie",
    run: same_address_without_cookie,
}];

/// How many connections follow each other between the same two ports.
const CONNECTIONS: u32 = 8;
/// That of the first, seconds; each has one more, so that none can pass for another.
const FIRST_IDLE: u32 = 100;

fn same_address_without_cookie(stage: &Stage<'_>) -> Result<()> {
    let listener = Tcp::new(LOCALHOST)?;
    listener.listen(LOCALHOST)?;
    let to = SocketAddr::new(LOCALHOST, listener.local()?.port());
    let mut port = 0;
    for number in 0..CONNECTIONS {
        let client = connect(&mut port, to)?;
        let server = listener.accept()?;
        client.arm(Keepalive::after(FIRST_IDLE + number))?;
        client.abort()?;
        drop(server);
    }
    // The last one lives, and is probed.
    let last = connect(&mut port, to)?;
    let _server = listener.accept()?;
    last.arm(Keepalive::EVERY_SECOND)?;

    let key = Key {
        netns: Namespace::current()?.inode,
        local_port: port,
        peer_port: to.port(),
    };
    stage.show(key);
    stage
        .tracer
        .wait_for(key, 0, PATIENCE, |event| event.is_timer("probe_sent"))
        .context("the last connection is not seen to be probed")?;
    let events = stage.tracer.events_of(key);
    let mut ids = BTreeSet::new();
    for number in 0..CONNECTIONS {
        let id = expect_one(&events, FIRST_IDLE + number)?;
        ensure!(ids.insert(id), "socket.id {id} is that of two connections");
    }
    let probed = events.iter().filter(|event| event.is("timer"));
    for event in probed {
        event.expect("keepalive.time_ms", 1000)?;
        let id = event.number("socket.id")?;
        ensure!(!ids.contains(&id), "an earlier connection's: {event}");
    }
    Ok(())
}

/// A connection from `port`, which is any at first.
fn connect(port: &mut u16, to: SocketAddr) -> Result<Tcp> {
    let client = Tcp::new(LOCALHOST)?;
    client.bind_to(SocketAddr::new(LOCALHOST, *port))?;
    client.connect(to)?;
    *port = client.local()?.port();
    Ok(client)
}

/// The connection with this idle time was armed and aborted, and nothing else; gives its id.
fn expect_one(events: &[Event], idle: u32) -> Result<u64> {
    let time_ms = u64::from(idle) * 1000;
    let of_it: Vec<&Event> = events
        .iter()
        .filter(|event| event.get("keepalive.time_ms").as_u64() == Some(time_ms))
        .collect();
    let first = of_it.first().context("a connection was not seen")?;
    let id = first.number("socket.id")?;
    for event in &of_it {
        event.expect("socket.id", id)?;
        event.expect("socket.cookie", Value::Null)?;
    }
    let closed: Vec<_> = of_it.iter().filter(|event| event.is("closed")).collect();
    let [closed] = closed[..] else {
        anyhow::bail!("{} ends of the connection with idle {idle} s", closed.len());
    };
    closed.expect("cause", "local_abort")?;
    closed.expect("timers", 0)?;
    closed.expect("keepalive_probes", 0)?;
    ensure!(
        of_it.iter().any(|event| event.is("armed")),
        "the connection with idle {idle} s was not seen to be armed"
    );
    Ok(id)
}
