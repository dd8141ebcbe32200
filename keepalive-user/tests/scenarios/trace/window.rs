//! Zero windows: a peer that accepts no data, with and without keepalive, alive and dead.

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

/// The peer's application does not read: the kernel sends probes at doubling intervals until it
/// reads again.
fn zero_window_opened(stage: &Stage<'_>) -> Result<()> {
    let before = Counters::read()?.window_probes();
    let pair = Pair::with_narrow_server()?;
    let watch = stage.watch(&pair.client)?;
    let stalled = stall(stage, &pair.client)?;

    let mut interval = 0;
    // No recorded system call names the owner of a socket without keepalive: the scan that the
    // first probe requests resolves it.
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

/// Expects one more unanswered probe, and the transmit result if the backend sees it.
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

/// The window is closed and the peer is dead: the kernel ends the connection after `tcp_retries2`
/// probes, without a RST.
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
    // Tracepoints do not see a first probe that was deferred because this process held the socket
    // lock.
    let least = if stage.facts.fentry { 1990 } else { 990 };
    closed.expect_within("watched_ms", least..=30_000)?;
    expect_timed_out(&pair, &closed)
}

/// A connection whose peer closed its window and then became unreachable.
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
    let returned = pair.client.failure()?;
    ensure!(
        Errno::from_io_error(&returned) == Some(Errno::TIMEDOUT),
        "the application got {returned}"
    );
    Ok(())
}
