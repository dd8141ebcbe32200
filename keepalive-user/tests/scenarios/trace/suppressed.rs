//! The timer runs and sends no probe: data in flight, data unsent, a recent segment from the peer,
//! socket locked by a process, or the packet dropped before it left the host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::net::AddressFamily;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::diag;
use crate::kit::event::Event;
use crate::kit::expect::expect_no_probe;
use crate::kit::link::{self, Link};
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::sys;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "data_in_flight",
        run: data_in_flight,
    },
    Scenario {
        name: "data_unsent",
        run: data_unsent,
    },
    Scenario {
        name: "not_idle",
        run: not_idle,
    },
    Scenario {
        name: "socket_busy",
        run: socket_busy,
    },
    Scenario {
        name: "probe_failed",
        run: probe_failed,
    },
];

fn data_in_flight(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    pair.client.send(b"x")?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;

    let timer = watch.timer()?;
    timer.expect("decision", "data_in_flight")?;
    timer.expect_within("packets_out", 1..=2)?;
    timer.expect("unsent_bytes", 0)?;
    timer.expect("death", serde_json::Value::Null)?;
    stage.facts.expect_full_wait(&watch, &timer)?;

    pair.server.hear()?;
    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)
}

fn data_unsent(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::with_narrow_server()?;
    let watch = stage.watch(&pair.client)?;
    let stalled = stall(stage, &pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;

    for _ in 0..2 {
        let timer = watch.timer()?;
        timer.expect("decision", "data_unsent")?;
        timer.expect("packets_out", 0)?;
        timer.expect("unsent_bytes", stalled.unsent)?;
        stage.facts.expect_full_wait(&watch, &timer)?;
    }
    Ok(())
}

/// A connection whose peer's window is closed.
pub struct Stalled {
    /// Unsent bytes.
    unsent: u64,
    /// When the last byte was written, CLOCK_MONOTONIC nanoseconds.
    written_ns: u64,
}

impl Stalled {
    /// All bytes are unsent, unless the event happened while they were being written: the window
    /// closes long before the last write, and on a slow machine the first zero-window probe also
    /// leaves before it.
    pub fn expect_unsent(&self, event: &Event) -> Result<()> {
        if event.at_ns() >= self.written_ns {
            return event.expect("unsent_bytes", self.unsent);
        }
        event.expect_within("unsent_bytes", 1..=self.unsent)?;
        Ok(())
    }
}

/// Writes until the peer's window is closed and no data is in flight. The window is closed once the
/// kernel has armed the zero-window probe timer: packets_out alone may be 0 for a moment before
/// that.
pub fn stall(stage: &Stage<'_>, client: &Tcp) -> Result<Stalled> {
    client.fill()?;
    let written_ns = sys::monotonic_ns();
    let local = client.local()?;
    stage.until("the window to close", || {
        let timers = diag::timers(AddressFamily::INET)?;
        let is_probing = |timer: &diag::Timer| timer.local == local && timer.kind == WINDOW_PROBE;
        Ok(timers.iter().any(is_probing) && client.info()?.tcpi_unacked == 0)
    })?;
    Ok(Stalled {
        unsent: client.unsent()?,
        written_ns,
    })
}

/// `idiag_timer` of `inet_csk(sk)->icsk_pending == ICSK_TIME_PROBE0`.
const WINDOW_PROBE: u8 = 4;

fn not_idle(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::after(2))?;
    thread::sleep(Duration::from_secs(1));
    pair.server.send(b"x")?;
    pair.client.receive(1)?;

    let timer = watch.timer()?;
    timer.expect("decision", "not_idle")?;
    timer.expect_within("idle_ms", 500..=1999)?;
    stage.facts.expect_remainder(&watch, &timer)?;

    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    probe.expect_within("idle_ms", stage.facts.at_least(2000))?;
    Ok(())
}

/// A thread that repeatedly copies a long receive queue holds the socket lock almost all the time.
fn socket_busy(stage: &Stage<'_>) -> Result<()> {
    const QUEUE: usize = 2 << 20;
    let client = Tcp::new(LOCALHOST)?;
    client.force_receive_buffer(8 * QUEUE)?;
    let pair = Pair::from(client, Tcp::new(LOCALHOST)?, LOCALHOST, LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.send(&vec![b'x'; QUEUE])?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;

    let enough = AtomicBool::new(false);
    let busy = thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<()> {
            let mut buffer = vec![0; QUEUE];
            while !enough.load(Ordering::Relaxed) {
                pair.client.peek(&mut buffer)?;
            }
            Ok(())
        });
        let busy = watch.decision("socket_busy");
        enough.store(true, Ordering::Relaxed);
        let reader = reader.join();
        ensure!(matches!(reader, Ok(Ok(()))), "the reader: {reader:?}");
        busy
    })?;
    let retry_ms = 1000 * (stage.facts.hz / 20) / stage.facts.hz;
    busy.expect_within("next_ms", stage.facts.about(retry_ms))?;
    expect_no_probe(&busy)?;

    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    // Whichever side won the race for the lock, the reported decision must be the kernel's.
    for event in watch.events().iter().filter(|event| event.is("timer")) {
        match event.text("decision") {
            "socket_busy" | "probe_sent" => {}
            "not_idle" => stage.facts.expect_remainder(&watch, event)?,
            other => anyhow::bail!("impossible decision {other}: {event}"),
        }
    }
    Ok(())
}

/// A qdisc drops the probe and returns NET_XMIT_DROP: the kernel does not count it and retries
/// after HZ/2.
fn probe_failed(stage: &Stage<'_>) -> Result<()> {
    let link = Link::create()?;
    let pair = over(&link)?;
    let watch = stage.watch(&pair.client)?;
    link::drop_everything_at_near()?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;

    let timers: Vec<Event> = (0..3).map(|_| watch.timer()).collect::<Result<_>>()?;
    for timer in &timers {
        timer.expect("decision", "probe_failed")?;
        timer.expect("probes_out.before", 0)?;
        timer.expect("probes_out.after", 0)?;
        timer.expect_within("next_ms", stage.facts.about(500))?;
    }
    link::let_through_at_near()?;
    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)
}

/// A connection from the near end of a link to its far end.
pub fn over(link: &Link) -> Result<Pair> {
    let listener = link.at_far(|| {
        let listener = Tcp::new(link::FAR_ADDRESS)?;
        Ok(listener)
    })?;
    Pair::from(
        Tcp::new(link::NEAR_ADDRESS)?,
        listener,
        link::FAR_ADDRESS,
        link::FAR_ADDRESS,
    )
}
