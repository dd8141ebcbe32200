//! Connections that were never established.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::net;
use crate::kit::socket::{Keepalive, LOCALHOST, Tcp};
use crate::kit::watch::Watch;
use crate::trace::death::expect_same_error;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "connect_refused",
        run: connect_refused,
    },
    Scenario {
        name: "connect_timeout",
        run: connect_timeout,
    },
];

/// No socket listens on this port.
fn connect_refused(stage: &Stage<'_>) -> Result<()> {
    let peer = Tcp::new(LOCALHOST)?;
    peer.bind(LOCALHOST)?;
    let client = Tcp::new(LOCALHOST)?;
    fails_to_connect(stage, &client, &peer, "peer_reset", "ECONNREFUSED")
}

/// The SYN-ACKs are dropped: the SYN is sent, and retransmitted once.
fn connect_timeout(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_syn_retries", 1)?;
    let peer = Tcp::new(LOCALHOST)?;
    peer.listen(LOCALHOST)?;
    let client = Tcp::new(LOCALHOST)?;
    client.deafen()?;
    fails_to_connect(stage, &client, &peer, "connect_timeout", "ETIMEDOUT")
}

/// The keepalive timer is not armed before the connection is established, and the end is reported
/// once.
fn fails_to_connect(
    stage: &Stage<'_>,
    client: &Tcp,
    peer: &Tcp,
    cause: &str,
    error: &str,
) -> Result<()> {
    client.bind(LOCALHOST)?;
    client.arm(Keepalive::EVERY_SECOND.user_timeout_ms(60_000))?;
    let (local, to) = (client.local()?, peer.local()?);
    let watch = Watch::between(stage.tracer, local, to, Some(client.cookie()?))?;
    stage.show(watch.key);
    watch.expect_settings(Keepalive::EVERY_SECOND.user_timeout_ms(60_000).into());

    let returned = client
        .connect(SocketAddr::new(LOCALHOST, to.port()))
        .err()
        .context("it connected")?;
    let closed = watch.closed(cause)?;
    closed.expect("from_state", "syn_sent")?;
    closed.expect("lifetime_ms", Value::Null)?;
    closed.expect("keepalive_probes", 0)?;
    let returned = returned.downcast_ref().context("not an errno")?;
    expect_same_error(&closed, returned, error)?;
    let ends = watch.count(|event| event.is("closed"));
    ensure!(ends == 1, "it ended {ends} times");
    watch.never("a timer", |event| event.is("timer"))
}
