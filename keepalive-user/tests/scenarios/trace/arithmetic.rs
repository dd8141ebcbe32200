//! Compares the arithmetic with the kernel: for settings on either side of every boundary, the
//! number of probes and the time and cause of death must be those that `explain` predicts.
//!
//! The prediction includes the lateness of the timer wheel. A machine that stalls makes timers
//! later still; `late_ms` reports this, and it is subtracted from the time of death.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::explain::command;
use crate::harness::bench::{Bench, HardCase, Refused};
use crate::harness::stalls;
use crate::kit::event::Event;
use crate::kit::net::{Namespace, sysctl};
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys;
use crate::kit::tracer::{PATIENCE, Tracer};

pub const CASES: &[HardCase] = &[HardCase {
    name: "arithmetic",
    run: arithmetic,
}];

/// Idle, interval (seconds), count, user timeout (milliseconds).
type Settings = (u32, u32, u32, u32);

/// The namespace's sysctls for idle, interval and count, instead of the usual 7200, 75 and 9.
const DEFAULTS: Settings = (3, 1, 5, 0);
const SETTINGS: [Settings; 19] = [
    DEFAULTS,
    (1, 1, 1, 0),
    (1, 1, 3, 0),
    (2, 1, 2, 0),
    (1, 2, 2, 0),
    (2, 3, 1, 0),
    (3, 1, 1, 0),
    // TCP_USER_TIMEOUT below the idle time, and on and around the second and third timer run.
    (1, 1, 9, 500),
    (1, 1, 9, 1000),
    (1, 1, 9, 1500),
    (1, 1, 9, 1900),
    (1, 1, 9, 2000),
    (1, 1, 9, 2400),
    (1, 1, 9, 3000),
    // TCP_USER_TIMEOUT overrides a TCP_KEEPCNT that would end the connection sooner.
    (1, 1, 1, 3500),
    (1, 1, 2, 2400),
    (2, 2, 9, 5000),
    (1, 3, 9, 3500),
    (1, 3, 9, 4600),
];
/// The timer is re-armed a little after it ran; no field reports this delay
/// (`expect::Facts::about`).
const STALL_MS: u64 = 60;

fn arithmetic(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?.inode.to_string();
    let (idle, interval, count, _) = DEFAULTS;
    sysctl("tcp_keepalive_time", idle)?;
    sysctl("tcp_keepalive_intvl", interval)?;
    sysctl("tcp_keepalive_probes", count)?;
    let tracer = bench.trace(&["-N", &netns])?;
    let dying = begin_to_die(bench)?;
    for one in &dying {
        one.expect_end(&tracer)
            .with_context(|| one.story(&tracer))?;
    }
    tracer.interrupt()?.end()?;
    Ok(())
}

/// A connection whose peer is dead.
struct Dying {
    settings: Settings,
    /// When its timer was set, CLOCK_MONOTONIC nanoseconds.
    armed_ns: u64,
    _pair: Pair,
    /// The ports of the client's end and its peer, stored because a dead socket no longer has them.
    ports: (u16, u16),
    /// What `explain` predicts for such a connection.
    plan: Event,
}

/// One dying connection for each of the settings.
fn begin_to_die(bench: &Bench) -> Result<Vec<Dying>> {
    let mut dying = Vec::new();
    for settings in SETTINGS {
        // `explain` runs on a connection that stays alive, so that it has enough time.
        let twin = Pair::over(LOCALHOST)?;
        arm(&twin, settings)?;
        let plan = plan_of(bench, &twin)?;
        let calculated = calculated(bench, settings)?;
        for field in ["probes", "rule", "schedule", "dead_letters"] {
            let field = format!("plan.{field}");
            calculated.expect(&field, plan.get(&field).clone())?;
        }
        let pair = Pair::over(LOCALHOST)?;
        let ports = (pair.client.local()?.port(), pair.client.peer()?.port());
        pair.server.deafen()?;
        let armed_ns = sys::monotonic_ns();
        arm(&pair, settings)?;
        dying.push(Dying {
            settings,
            armed_ns,
            _pair: pair,
            ports,
            plan,
        });
    }
    Ok(dying)
}

fn arm(pair: &Pair, settings: Settings) -> Result<()> {
    if settings == DEFAULTS {
        return pair.client.switch_keepalive(true);
    }
    let (idle, interval, probes, user_timeout_ms) = settings;
    pair.client.arm(Keepalive {
        idle,
        interval,
        probes,
        user_timeout_ms,
    })
}

impl Dying {
    /// By how much its timers (those of the probes and the last one) ran later than the timer wheel
    /// alone explains, since the last segment from the peer.
    fn stall_ms(&self, tracer: &Tracer, closed: &Event) -> Result<u64> {
        let events = tracer.events_of(closed.key().context("no socket")?);
        let runs: Vec<&Event> = events.iter().filter(|event| event.is("timer")).collect();
        let sent = usize::try_from(closed.number("probes_out")?)?;
        let last = runs
            .len()
            .checked_sub(sent + 1)
            .with_context(|| format!("{} timer runs and {sent} probes out", runs.len()))?;
        let (idle, interval, ..) = self.settings;
        let hz = tracer.start.number("hz")?;
        let mut stall_ms = 0;
        for (number, run) in runs[last..].iter().enumerate() {
            let seconds = if number == 0 { idle } else { interval };
            let allowed = wheel_ms(u64::from(seconds) * 1000, hz);
            stall_ms += run.number("late_ms")?.saturating_sub(allowed);
        }
        Ok(stall_ms)
    }

    fn is_ours(&self, event: &Event) -> bool {
        event
            .key()
            .is_some_and(|key| (key.local_port, key.peer_port) == self.ports)
    }

    /// The prediction and the events, for the message of a failure.
    fn story(&self, tracer: &Tracer) -> String {
        let events = tracer.events_where(|event| self.is_ours(event));
        let events: Vec<String> = events.iter().map(Event::to_string).collect();
        let stall_ms = stalls::longest_ms_since(self.armed_ns);
        let (settings, plan) = (self.settings, &self.plan);
        format!("{settings:?}, stalled {stall_ms} ms, predicted {plan}, events {events:?}")
    }

    /// Expects that the connection ends as predicted.
    fn expect_end(&self, tracer: &Tracer) -> Result<()> {
        let plan = &self.plan;
        let (idle, interval, _, user_timeout_ms) = self.settings;
        let closed = tracer
            .wait_for_line(PATIENCE, |event| event.is("closed") && self.is_ours(event))
            .context("no `closed` event")?;
        let sent = closed.number("probes_out")?;
        let stall_ms = self.stall_ms(tracer, &closed)?;
        // A stall in the middle of a timer run delays the next one without appearing in `late_ms`.
        // It may have been long ago: the first of these sockets end while the last are still being
        // created.
        let slack = STALL_MS * (sent + 1) + stalls::longest_ms_since(self.armed_ns);
        closed.expect("cause", plan.text("plan.rule"))?;
        let (least, most) = (
            plan.number("plan.dead_after_ms.least")?,
            plan.number("plan.dead_after_ms.most")?,
        );
        let schedule = plan
            .get("plan.schedule")
            .as_array()
            .context("no schedule")?;
        let on_time = schedule.last().and_then(|run| run["after_ms"].as_u64());
        let on_time = on_time.context("an empty schedule")?;
        let probes = plan.number("plan.probes.most")?;
        ensure!(schedule.len() as u64 == probes + 1, "{schedule:?}");
        if interval <= idle {
            plan.expect("plan.probes.least", probes)?;
        }
        let idle_ms = closed.expect_within("idle_ms", least..=most + stall_ms + slack)?;
        // A late timer run measures a longer idle time and may need one probe less.
        if stall_ms == 0 || user_timeout_ms == 0 {
            closed.expect("probes_out", probes)?;
            let most = most.min(on_time + u64::from(interval) * 500);
            ensure!(
                (on_time..=most + stall_ms + slack).contains(&idle_ms),
                "dead after {idle_ms} ms, predicted {on_time} to {most}: {closed}"
            );
        } else {
            ensure!((1..=probes).contains(&sent), "{sent} probes: {closed}");
        }
        Ok(())
    }
}

/// How late the timer wheel makes a timer, plus one tick: level n begins at 63 × 8^(n-1) ticks and
/// has a granularity of 8^n ticks (kernel/time/timer.c).
fn wheel_ms(length_ms: u64, hz: u64) -> u64 {
    let ticks = length_ms * hz / 1000;
    let level = (0..8).find(|&level| ticks + 1 < 63 * 8_u64.pow(level));
    (8_u64.pow(level.unwrap_or(8)) + 1) * 1000 / hz + 1
}

/// What `explain` prints for the client's end.
fn plan_of(bench: &Bench, pair: &Pair) -> Result<Event> {
    let target = format!("{}-{}", pair.client.local()?, pair.client.peer()?);
    run_explain(command(bench, &["--json", &target]))
}

/// What `explain` calculates without a socket.
fn calculated(bench: &Bench, settings: Settings) -> Result<Event> {
    let mut arguments = vec!["--json".to_owned()];
    let (idle, interval, count, user_timeout) = settings;
    let mut options = vec![("--user-timeout", user_timeout)];
    if settings != DEFAULTS {
        options.extend([
            ("--idle", idle),
            ("--interval", interval),
            ("--count", count),
        ]);
    }
    for (name, value) in options {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
    run_explain(command(bench, &arguments))
}

fn run_explain(command: Command) -> Result<Event> {
    let run = Refused::from(command)?;
    run.expect_code(0)?;
    Event::parse(run.stdout.trim())
}
