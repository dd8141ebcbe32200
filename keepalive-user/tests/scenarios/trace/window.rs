//! Zero windows: a peer that takes no data, with and without keepalive, alive and dead.

use anyhow::{Result, ensure};
use rustix::io::Errno;
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::event::Event;
use crate::kit::net;
use crate::kit::socket::Pair;
use crate::kit::watch::{Settings, Watch};
use crate::kit::witness::Counters;
use crate::trace::suppressed::stall;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "zero_window_opened",
        run: zero_window_opened,
    },
    Scenario {
        name: "zero_window_dead_peer",
        run: zero_window_dead_peer,
    },
    Scenario {
        name: "zero_window_user_timeout",
        run: zero_window_user_timeout,
    },
];

/// The peer's application does not read: probes with a doubling interval, until it reads again.
fn zero_window_opened(stage: &Stage<'_>) -> Result<()> {
    let before = Counters::read()?.window_probes();
    let pair = Pair::with_narrow_server()?;
    let watch = stage.watch(&pair.client)?;
    let stalled = stall(stage, &pair.client)?;

    let mut interval = 0;
    // No process acts on a socket without keepalive: its owner is found by the pass that the first
    // probe asks for.
    watch.owner_may_be_unknown();
    for backoff in 1..=4 {
        if backoff == 4 {
            watch.owner_must_be_known();
        }
        let probe = watch.window_probe()?;
        probe.expect("backoff", backoff)?;
        stalled.expect_unsent(&probe)?;
        expect_counted(stage, &probe)?;
        let next = probe.number("next_ms")?;
        ensure!(
            next * 2 >= interval * 3,
            "the interval did not double after {interval} ms: {probe}"
        );
        interval = next;
    }
    let answers = watch.count(|event| event.is("answer") && event.text("probe") == "window");
    ensure!(answers >= 1, "none of four probes was answered");

    pair.server.drain()?;
    stage.until("the data to be taken", || {
        Ok(pair.client.info()?.tcpi_unacked == 0 && pair.client.unsent()? == 0)
    })?;
    let counted = Counters::read()?.window_probes() - before;
    stage.until("an event for every probe the kernel counted", || {
        Ok(watch.count(is_window_probe) >= counted)
    })?;
    ensure!(
        watch.count(is_window_probe) == counted,
        "TCPWinProbe counted {counted}"
    );
    watch.never("a keepalive timer", |event| event.is("timer"))?;
    watch.owner_may_be_unknown();
    drop(pair.client);
    watch.closed("local_close")?;
    Ok(())
}

fn is_window_probe(event: &Event) -> bool {
    event.is("window_probe")
}

/// One more unanswered probe, and what the backend can know of its sending.
fn expect_counted(stage: &Stage<'_>, probe: &Event) -> Result<()> {
    let before = probe.number("probes_out.before")?;
    probe.expect("probes_out.after", before + 1)?;
    let sent = if stage.facts.fentry {
        Value::from(true)
    } else {
        Value::Null
    };
    probe.expect("sent", sent)?;
    probe.expect("send_error", Value::Null)
}

/// The window closed and the peer died: given up after `tcp_retries2` probes, without a reset.
fn zero_window_dead_peer(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_retries2", 3)?;
    let before = Counters::read()?.timeouts();
    let (pair, watch) = dying_with_closed_window(stage)?;
    watch.owner_may_be_unknown();
    watch.window_probe()?;
    watch.owner_must_be_known();
    let closed = watch.closed("window_probe_timeout")?;
    closed.expect("probes_out", 3)?;
    expect_timed_out(&pair, &closed)?;
    let timeouts = Counters::read()?.timeouts() - before;
    ensure!(timeouts == 1, "TCPAbortOnTimeout counted {timeouts}");
    Ok(())
}

fn zero_window_user_timeout(stage: &Stage<'_>) -> Result<()> {
    let (pair, watch) = dying_with_closed_window(stage)?;
    watch.expect_settings(Settings {
        user_timeout_ms: 2000,
        ..Settings::OFF
    });
    pair.client.set_user_timeout_ms(2000)?;
    watch.owner_may_be_unknown();
    watch.next("a probe", |event| {
        is_window_probe(event) && event.get("keepalive.user_timeout_ms") == 2000
    })?;
    watch.owner_must_be_known();
    let closed = watch.closed("window_probe_user_timeout")?;
    // Tracepoints do not see a first probe that was put off because we held the socket.
    let least = if stage.facts.fentry { 1990 } else { 990 };
    closed.expect_within("watched_ms", least..=30_000)?;
    expect_timed_out(&pair, &closed)
}

/// A connection whose peer closed its window and then went deaf.
fn dying_with_closed_window<'t>(stage: &Stage<'t>) -> Result<(Pair, Watch<'t>)> {
    let pair = Pair::with_narrow_server()?;
    let watch = stage.watch(&pair.client)?;
    stall(stage, &pair.client)?;
    pair.server.deafen()?;
    Ok((pair, watch))
}

fn expect_timed_out(pair: &Pair, closed: &Event) -> Result<()> {
    closed.expect("from_state", "established")?;
    closed.expect("error", "ETIMEDOUT")?;
    let told = pair.client.failure()?;
    ensure!(
        Errno::from_io_error(&told) == Some(Errno::TIMEDOUT),
        "the application was told {told}"
    );
    Ok(())
}
