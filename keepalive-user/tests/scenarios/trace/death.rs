//! How connections end: by unanswered probes, by timeouts, by the peer, by this side, and by the
//! network.

use std::io;

use anyhow::{Result, ensure};
use rustix::io::Errno;
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::link::{self, Link};
use crate::kit::net::{self, set_link_up};
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::watch::Watch;
use crate::kit::witness::{Capture, Counters};
use crate::trace::answered::{is_probe, probes_among};
use crate::trace::suppressed::over;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "dead_peer_probes",
        run: dead_peer_probes,
    },
    Scenario {
        name: "user_timeout_kill",
        run: user_timeout_kill,
    },
    Scenario {
        name: "peer_reset_answers_probe",
        run: peer_reset_answers_probe,
    },
    Scenario {
        name: "peer_closes",
        run: peer_closes,
    },
    Scenario {
        name: "local_close_probes_outstanding",
        run: local_close_probes_outstanding,
    },
    Scenario {
        name: "local_abort",
        run: local_abort,
    },
    Scenario {
        name: "retransmit_suppresses",
        run: retransmit_suppresses,
    },
    Scenario {
        name: "retransmit_user_timeout",
        run: retransmit_user_timeout,
    },
    Scenario {
        name: "link_down",
        run: link_down,
    },
    Scenario {
        name: "unreachable_route",
        run: unreachable_route,
    },
];

fn dead_peer_probes(stage: &Stage<'_>) -> Result<()> {
    let capture = Capture::on_loopback()?;
    let before = Counters::read()?;
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.probes(3))?;

    for attempt in 1..=3 {
        let probe = watch.timer()?;
        stage.facts.expect_probe(&watch, &probe, attempt)?;
        probe.expect_within("idle_ms", stage.facts.at_least(attempt * 1000))?;
    }
    expect_killed(stage, &watch, 3)?;
    let closed = watch.closed("keepalive_probes")?;
    closed.expect("from_state", "established")?;
    closed.expect("probes_out", 3)?;
    closed.expect_within("idle_ms", stage.facts.at_least(4000))?;
    closed.expect_within("watched_ms", 3990..=30_000)?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")?;
    watch.never("an answer", |event| event.is("answer"))?;

    let after = Counters::read()?;
    let counted = after.keepalive_probes() - before.keepalive_probes();
    ensure!(counted == 3, "TCPKeepAlive counted {counted}");
    let timeouts = after.timeouts() - before.timeouts();
    ensure!(timeouts == 1, "TCPAbortOnTimeout counted {timeouts}");
    let segments = capture.segments()?;
    let probes = probes_among(&segments, &watch)?.len();
    ensure!(probes == 3, "the capture shows {probes} probes");
    let resets = segments.iter().filter(|segment| segment.is_reset()).count();
    ensure!(resets == 1, "the capture shows {resets} resets");
    Ok(())
}

/// The last run of the timer: it ends the connection and does not re-arm.
fn expect_killed(stage: &Stage<'_>, watch: &Watch<'_>, probes_out: u64) -> Result<()> {
    let killed = watch.timer()?;
    killed.expect("decision", "killed")?;
    killed.expect("probes_out.before", probes_out)?;
    killed.expect("next_ms", Value::Null)?;
    killed.expect("death", Value::Null)?;
    killed.expect("attempt", Value::Null)?;
    killed.expect_within("late_ms", 0..=*stage.facts.at_least(0).end())?;
    Ok(())
}

/// The `closed` event contains the error that the application gets.
pub fn expect_same_error(
    closed: &crate::kit::event::Event,
    returned: &io::Error,
    name: &str,
) -> Result<()> {
    let expected = match name {
        "ETIMEDOUT" => Errno::TIMEDOUT,
        "ECONNRESET" => Errno::CONNRESET,
        "ECONNREFUSED" => Errno::CONNREFUSED,
        "EHOSTUNREACH" => Errno::HOSTUNREACH,
        "ENETUNREACH" => Errno::NETUNREACH,
        other => anyhow::bail!("errno of {other}?"),
    };
    ensure!(
        Errno::from_io_error(returned) == Some(expected),
        "the application got {returned}, expected {name}"
    );
    closed.expect("error", name)
}

/// TCP_USER_TIMEOUT ends the connection before TCP_KEEPCNT would.
fn user_timeout_kill(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    let keepalive = Keepalive::EVERY_SECOND.probes(9).user_timeout_ms(2500);
    watch.arm(&pair.client, keepalive)?;

    let first = watch.timer()?;
    stage.facts.expect_probe(&watch, &first, 1)?;
    let killed = watch.decision("killed")?;
    killed.expect_within("idle_ms", stage.facts.at_least(2500))?;
    let closed = watch.closed("keepalive_user_timeout")?;
    closed.expect_within("probes_out", 1..=4)?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")
}

/// The peer's host no longer has the connection: it answers the first probe with a RST.
fn peer_reset_answers_probe(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    pair.server.vanish()?;

    let probe = watch.timer()?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    let closed = watch.closed("peer_reset")?;
    closed.expect("from_state", "established")?;
    closed.expect("keepalive_probes", 1)?;
    expect_same_error(&closed, &pair.client.failure()?, "ECONNRESET")
}

fn peer_closes(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    watch.decision("probe_sent")?;
    drop(pair.server);
    stage.until("the FIN to arrive", || {
        Ok(pair.client.info()?.tcpi_state == 8 /* CLOSE_WAIT */)
    })?;
    watch.owner_may_be_unknown();
    drop(pair.client);
    let closed = watch.closed("peer_fin")?;
    closed.expect("from_state", "last_ack")?;
    closed.expect("error", Value::Null)
}

/// Closed with unanswered probes: the FIN is not answered either, and the kernel ends the orphan.
fn local_close_probes_outstanding(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_orphan_retries", 1)?;
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    for attempt in 1..=2 {
        let probe = watch.timer()?;
        stage.facts.expect_probe(&watch, &probe, attempt)?;
    }
    watch.owner_may_be_unknown();
    // One more probe may leave before the FIN; after it none does.
    let out = u64::from(pair.client.info()?.tcpi_probes);
    ensure!(out >= 2, "the kernel counts only {out} unanswered probes");
    drop(pair.client);
    let closed = watch.closed("orphan_timeout")?;
    closed.expect("from_state", "fin_wait1")?;
    closed.expect("orphan", true)?;
    closed.expect("undelivered_bytes", 0)?;
    closed.expect("closed_by.pid", std::process::id())?;
    closed.expect_within("probes_out", out..=out + 1)?;
    Ok(())
}

fn local_abort(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    watch.decision("probe_sent")?;
    watch.owner_may_be_unknown();
    pair.client.abort()?;
    let closed = watch.closed("local_abort")?;
    closed.expect("from_state", "established")
}

/// With unacknowledged data keepalive sends no probe, and retransmission ends the connection.
fn retransmit_suppresses(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_retries2", 3)?;
    let before = Counters::read()?.timeouts();
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    pair.client.send(b"x")?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;

    for _ in 0..2 {
        let timer = watch.timer()?;
        timer.expect("decision", "data_in_flight")?;
        stage.facts.expect_full_wait(&watch, &timer)?;
    }
    let closed = watch.closed("retransmit_timeout")?;
    closed.expect("from_state", "established")?;
    closed.expect("probes_out", 0)?;
    closed.expect_within("retransmits", 3..=5)?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")?;
    watch.never("a probe", is_probe)?;
    let timeouts = Counters::read()?.timeouts() - before;
    ensure!(timeouts == 1, "TCPAbortOnTimeout counted {timeouts}");
    Ok(())
}

fn retransmit_user_timeout(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    pair.client.send(b"x")?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.user_timeout_ms(2500))?;

    let timer = watch.timer()?;
    timer.expect("decision", "data_in_flight")?;
    let closed = watch.closed("retransmit_user_timeout")?;
    closed.expect_within("watched_ms", 2490..=30_000)?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")?;
    watch.never("a probe", is_probe)
}

/// The far end of the link goes down: the near end has no carrier, and no probe arrives.
fn link_down(stage: &Stage<'_>) -> Result<()> {
    let link = Link::create()?;
    let pair = over(&link)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.probes(3))?;
    link.at_far(|| set_link_up(link::FAR, false))?;

    // Until the loss of carrier is processed the qdisc may drop a probe; the kernel does not count
    // it.
    let mut probe = watch.timer()?;
    while probe.expect("decision", "probe_failed").is_ok() {
        probe.expect("probes_out.after", 0)?;
        probe = watch.timer()?;
    }
    stage.facts.expect_probe(&watch, &probe, 1)?;
    for attempt in 2..=3 {
        let probe = watch.timer()?;
        stage.facts.expect_probe(&watch, &probe, attempt)?;
    }
    expect_killed(stage, &watch, 3)?;
    let closed = watch.closed("keepalive_probes")?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")
}

/// The near end goes down, and with it the route: the kernel counts probes although none leaves the
/// host.
fn unreachable_route(stage: &Stage<'_>) -> Result<()> {
    let link = Link::create()?;
    let pair = over(&link)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.probes(2))?;
    set_link_up(link::NEAR, false)?;

    for attempt in 1..=2 {
        let probe = watch.timer()?;
        probe.expect("decision", "probe_sent")?;
        probe.expect("attempt", attempt)?;
        probe.expect("probes_out.after", attempt)?;
        probe.expect("outage", "no_route")?;
        if stage.facts.fentry {
            probe.expect("sent", false)?;
            probe.expect("send_error", "EHOSTUNREACH")?;
        } else {
            probe.expect("sent", Value::Null)?;
            probe.expect("send_error", Value::Null)?;
        }
    }
    expect_killed(stage, &watch, 2)?;
    let closed = watch.closed("keepalive_probes")?;
    closed.expect("outage", "no_route")?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")
}
