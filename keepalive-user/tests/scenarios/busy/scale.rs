//! Many sockets at once: no record may be lost.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::suite::{Scenario, Stage};
use crate::kit::event::{Event, Key};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Tcp};
use crate::kit::sys;

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "two_thousand_sockets",
    run: two_thousand_sockets,
}];

const SOCKETS: usize = 2000;
/// The sockets are armed in steps, so that their timers do not all expire in one tick: the per-CPU
/// backlog of the loopback (netdev_max_backlog) holds 1,000 packets and drops the rest.
const STEP: usize = 20;

fn two_thousand_sockets(stage: &Stage<'_>) -> Result<()> {
    sys::allow_open_files(3 * SOCKETS as u64).context("RLIMIT_NOFILE")?;
    let netns = Namespace::current()?.inode;
    let connections = connect_all()?;
    let keys: Vec<Key> = connections
        .iter()
        .map(|(client, _)| {
            Ok(Key {
                netns,
                local_port: client.local()?.port(),
                peer_port: client.peer()?.port(),
            })
        })
        .collect::<Result<_>>()?;
    for step in connections.chunks(STEP) {
        for (client, _) in step {
            client.arm(Keepalive::EVERY_SECOND)?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    for what in ["probe_sent", "answer"] {
        await_of_all(stage, &keys, what)?;
    }
    note_rate(stage, &keys);
    drop(connections);
    await_of_all(stage, &keys, "closed")
}

/// Waits until every socket has such an event.
fn await_of_all(stage: &Stage<'_>, keys: &[Key], what: &str) -> Result<()> {
    let mut missing = keys.to_vec();
    let waited = stage.until_none(&format!("{what} of every socket"), || {
        missing.retain(|key| !has(&stage.tracer.events_of(*key), what));
        Ok(missing.len())
    });
    if let Some(key) = missing.first() {
        stage.show(*key);
    }
    waited.with_context(|| format!("{} of {SOCKETS} have no {what}", missing.len()))
}

fn connect_all() -> Result<Vec<(Tcp, Tcp)>> {
    let listener = Tcp::new(LOCALHOST)?;
    listener.listen(LOCALHOST)?;
    let address = SocketAddr::new(LOCALHOST, listener.local()?.port());
    (0..SOCKETS)
        .map(|_| {
            let client = Tcp::new(LOCALHOST)?;
            client.connect(address)?;
            let server = listener.accept()?;
            ensure!(
                server.peer()? == client.local()?,
                "connections got mixed up"
            );
            Ok((client, server))
        })
        .collect()
}

fn has(events: &[Event], what: &str) -> bool {
    events
        .iter()
        .any(|event| event.is(what) || event.is_timer(what))
}

fn note_rate(stage: &Stage<'_>, keys: &[Key]) {
    let events: Vec<Event> = keys
        .iter()
        .flat_map(|key| stage.tracer.events_of(*key))
        .filter(|event| event.is("timer") || event.is("answer"))
        .collect();
    let first = events.iter().map(Event::at_ns).min().unwrap_or_default();
    let last = events.iter().map(Event::at_ns).max().unwrap_or_default();
    let seconds = last.saturating_sub(first) as f64 / 1e9;
    stage.note(format!(
        "{SOCKETS} sockets: {} timer and answer events in {seconds:.1} s, {:.0} per second",
        events.len(),
        events.len() as f64 / seconds.max(0.001)
    ));
}
