//! How keepalive is armed, changed and switched off.

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::watch::{Settings, Watch};
use crate::trace::answered::expect_answer;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "keepalive_switched_off",
        run: keepalive_switched_off,
    },
    Scenario {
        name: "keepalive_off_and_on",
        run: keepalive_off_and_on,
    },
    Scenario {
        name: "keepidle_changed",
        run: keepidle_changed,
    },
    Scenario {
        name: "set_before_connect",
        run: set_before_connect,
    },
    Scenario {
        name: "inherited_by_accept",
        run: inherited_by_accept,
    },
    Scenario {
        name: "older_than_tracer",
        run: older_than_tracer,
    },
];

fn keepalive_switched_off(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    watch.armed("setsockopt")?;
    watch.decision("probe_sent")?;

    watch.expect_settings(Settings {
        enabled: false,
        ..watch.settings()
    });
    pair.client.switch_keepalive(false)?;
    let off = watch.armed("setsockopt")?;
    off.expect("next_ms", Value::Null)?;
    let timers = watch.count(|event| event.is("timer"));
    thread::sleep(Duration::from_millis(2500));
    ensure!(
        watch.count(|event| event.is("timer")) == timers,
        "the timer ran although keepalive is off"
    );
    Ok(())
}

/// A socket whose keepalive was switched off and on again ends like any other, and its state is
/// removed: the kernel reuses its memory for the next socket, which does not use keepalive.
fn keepalive_off_and_on(stage: &Stage<'_>) -> Result<()> {
    const SOCKETS: usize = 20;
    // Enough sockets for the kernel to reuse the same memory.
    const OTHERS: usize = 100;
    let pairs = (0..SOCKETS)
        .map(|_| Pair::over(LOCALHOST))
        .collect::<Result<Vec<_>>>()?;
    for pair in pairs {
        let watch = stage.watch(&pair.client)?;
        watch.arm(&pair.client, Keepalive::after(7200))?;
        pair.client.switch_keepalive(false)?;
        pair.client.switch_keepalive(true)?;
        watch.owner_may_be_unknown();
        pair.client.abort()?;
        watch.closed("local_abort")?;
    }
    let pairs = (0..OTHERS)
        .map(|_| Pair::over(LOCALHOST))
        .collect::<Result<Vec<_>>>()?;
    let mut others = Vec::new();
    for pair in pairs {
        others.push(Watch::new(stage.tracer, &pair.client)?);
        others.push(Watch::new(stage.tracer, &pair.server)?);
        pair.client.abort()?;
    }
    // Records are in order: once this event is printed, any event of those sockets would have been
    // printed too.
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::after(7200))?;
    watch.armed("setsockopt")?;
    for other in others {
        other.never("an event of a socket without keepalive", |_| true)?;
    }
    Ok(())
}

/// A shorter idle time takes effect at once; the time that has already passed is subtracted.
fn keepidle_changed(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::after(7200))?;
    let armed = watch.armed("setsockopt")?;
    armed.expect_within("next_ms", stage.facts.about(7_200_000))?;
    thread::sleep(Duration::from_millis(700));

    watch.expect_settings(Keepalive::after(2).into());
    let least = silence(&pair.client)?;
    pair.client.set_idle(2)?;
    let most = silence(&pair.client)?;
    let armed = watch.armed("setsockopt")?;
    let shortest = stage.facts.about(2000_u64.saturating_sub(most));
    let longest = stage.facts.about(2000_u64.saturating_sub(least));
    armed.expect_within("next_ms", *shortest.start()..=*longest.end())?;

    let probe = watch.timer()?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    probe.expect_within("idle_ms", stage.facts.at_least(2000))?;
    Ok(())
}

/// Time since the last segment from the peer according to TCP_INFO, milliseconds.
fn silence(socket: &Tcp) -> Result<u64> {
    let info = socket.info()?;
    Ok(u64::from(
        info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv),
    ))
}

fn set_before_connect(stage: &Stage<'_>) -> Result<()> {
    let client = Tcp::new(LOCALHOST)?;
    client.cookie()?;
    client.arm(Keepalive::EVERY_SECOND)?;
    let pair = Pair::from(client, Tcp::new(LOCALHOST)?, LOCALHOST, LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.expect_settings(Keepalive::EVERY_SECOND.into());

    let armed = watch.armed("connect")?;
    armed.expect_within("next_ms", stage.facts.about(1000))?;
    armed.expect("socket.state", "established")?;
    let probe = watch.timer()?;
    stage.facts.expect_probe(&watch, &probe, 1)
}

fn inherited_by_accept(stage: &Stage<'_>) -> Result<()> {
    let listener = Tcp::new(LOCALHOST)?;
    listener.arm(Keepalive::EVERY_SECOND.probes(5))?;
    listener.listen(LOCALHOST)?;
    let client = Tcp::new(LOCALHOST)?;
    client.connect(listener.local()?)?;
    let server = listener.accept()?;
    drop(listener);
    // The accepted socket had no cookie and no owner yet when it inherited the timer.
    let watch = Watch::between(stage.tracer, server.local()?, server.peer()?, None)?;
    stage.show(watch.key);
    watch.expect_settings(Keepalive::EVERY_SECOND.probes(5).into());

    watch.owner_may_be_unknown();
    let armed = watch.armed("accept")?;
    armed.expect_within("next_ms", stage.facts.about(1000))?;
    watch.owner_must_be_known();
    let probe = watch.timer()?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    expect_answer(&watch)?;
    // The listener has no timer to arm and no connection to end.
    let events = stage.events()?;
    let other = events.iter().find(|event| event.key() != Some(watch.key));
    ensure!(other.is_none(), "an event of another socket: {other:?}");
    Ok(())
}

/// A connection made and armed before the tracer started.
struct Older {
    namespace: Namespace,
    pair: Pair,
}

static OLDER: OnceLock<Older> = OnceLock::new();

const OLDER_KEEPALIVE: Keepalive = Keepalive::EVERY_SECOND.interval(2).probes(7);

/// Creates the connection of the scenario `older_than_tracer`.
pub fn make_older_connection() -> Result<()> {
    let older = thread::spawn(|| -> Result<Older> {
        let namespace = Namespace::create()?;
        let pair = Pair::over(LOCALHOST)?;
        pair.client.cookie()?;
        pair.client.arm(OLDER_KEEPALIVE)?;
        Ok(Older { namespace, pair })
    });
    let older = older.join().ok().context("the thread panicked")??;
    ensure!(OLDER.set(older).is_ok(), "created twice");
    Ok(())
}

fn older_than_tracer(stage: &Stage<'_>) -> Result<()> {
    let older = OLDER.get().context("no older connection was created")?;
    older.namespace.enter()?;
    let client = &older.pair.client;
    let watch = stage.watch(client)?;
    watch.expect_settings(OLDER_KEEPALIVE.into());

    let first = watch.next("a first event", |_| true)?;
    first.expect("event", "armed")?;
    first.expect("cause", "seen")?;
    first.expect_within("next_ms", 0..=2000 + stage.facts.tick_ms)?;
    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)?;

    older.pair.server.deafen()?;
    client.set_user_timeout_ms(1)?;
    watch.expect_settings(OLDER_KEEPALIVE.user_timeout_ms(1).into());
    let closed = watch.closed("keepalive_user_timeout")?;
    closed.expect("lifetime_ms", Value::Null)
}
