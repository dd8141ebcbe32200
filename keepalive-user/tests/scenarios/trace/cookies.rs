//! Sockets without a kernel cookie, because no process requested one: they are distinguished by
//! their ports and their lifetime, although the kernel reuses the memory of one for the next.

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
/// Idle time of the first connection, seconds. Each following one has one second more, so that they
/// can be distinguished.
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
    // The last connection stays open and sends probes.
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
        .context("no probe of the last connection is reported")?;
    let events = stage.tracer.events_of(key);
    let mut ids = BTreeSet::new();
    for number in 0..CONNECTIONS {
        let id = expect_one(&events, FIRST_IDLE + number)?;
        ensure!(ids.insert(id), "two connections have socket.id {id}");
    }
    let probed = events.iter().filter(|event| event.is("timer"));
    for event in probed {
        event.expect("keepalive.time_ms", 1000)?;
        let id = event.number("socket.id")?;
        ensure!(!ids.contains(&id), "socket.id was used before: {event}");
    }
    Ok(())
}

/// A connection from `port`; the first one uses any free port.
fn connect(port: &mut u16, to: SocketAddr) -> Result<Tcp> {
    let client = Tcp::new(LOCALHOST)?;
    client.bind_to(SocketAddr::new(LOCALHOST, *port))?;
    client.connect(to)?;
    *port = client.local()?.port();
    Ok(client)
}

/// Expects that the connection with this idle time was only armed and aborted; returns its id.
fn expect_one(events: &[Event], idle: u32) -> Result<u64> {
    let time_ms = u64::from(idle) * 1000;
    let own: Vec<&Event> = events
        .iter()
        .filter(|event| event.get("keepalive.time_ms").as_u64() == Some(time_ms))
        .collect();
    let first = own.first().context("a connection has no event")?;
    let id = first.number("socket.id")?;
    for event in &own {
        event.expect("socket.id", id)?;
        event.expect("socket.cookie", Value::Null)?;
    }
    let closed: Vec<_> = own.iter().filter(|event| event.is("closed")).collect();
    let [closed] = closed[..] else {
        anyhow::bail!("{} ends of the connection with idle {idle} s", closed.len());
    };
    closed.expect("cause", "local_abort")?;
    closed.expect("timers", 0)?;
    closed.expect("keepalive_probes", 0)?;
    ensure!(
        own.iter().any(|event| event.is("armed")),
        "the connection with idle {idle} s has no `armed` event"
    );
    Ok(id)
}
