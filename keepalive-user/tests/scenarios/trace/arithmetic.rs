//! The arithmetic against the kernel: for settings on either side of every boundary, the number of
//! probes and the time and cause of death must be what `explain` predicts.
//!
//! Timers run as late as the timer wheel makes them, which the prediction knows; a machine that
//! stalls makes them later, by what `late_ms` shows: the time of death is judged without it.

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

/// The defaults of the namespace, idle, interval and count, as 7200, 75 and 9 are elsewhere.
const DEFAULTS: Settings = (3, 1, 5, 0);
const SETTINGS: [Settings; 19] = [
    DEFAULTS,
    (1, 1, 1, 0),
    (1, 1, 3, 0),
    (2, 1, 2, 0),
    (1, 2, 2, 0),
    (2, 3, 1, 0),
    (3, 1, 1, 0),
    // A user timeout below the idle time, on and around the second and third run.
    (1, 1, 9, 500),
    (1, 1, 9, 1000),
    (1, 1, 9, 1500),
    (1, 1, 9, 1900),
    (1, 1, 9, 2000),
    (1, 1, 9, 2400),
    (1, 1, 9, 3000),
    // It overrides a count that would end sooner.
    (1, 1, 1, 3500),
    (1, 1, 2, 2400),
    (2, 2, 9, 5000),
    (1, 3, 9, 3500),
    (1, 3, 9, 4600),
];
/// A timer is set again a little after it ran, which no number shows (`expect::Facts::about`).
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
    /// Of the client's end and its peer: a dead socket has none any more.
    ports: (u16, u16),
    /// What `explain` says of such a connection.
    plan: Event,
}

/// One of each of the settings.
fn begin_to_die(bench: &Bench) -> Result<Vec<Dying>> {
    let mut dying = Vec::new();
    for settings in SETTINGS {
        // Asked of one that does not die, so that there is time.
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
    /// By how much its timers ran later than the timer wheel makes them, since the peer was last heard:
    /// those of the probes, and the one that killed.
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

    /// What was planned and what came, for a failure.
    fn story(&self, tracer: &Tracer) -> String {
        let events = tracer.events_where(|event| self.is_ours(event));
        let events: Vec<String> = events.iter().map(Event::to_string).collect();
        let stall_ms = stalls::longest_ms_since(self.armed_ns);
        let (settings, plan) = (self.settings, &self.plan);
        format!("{settings:?}, stalled {stall_ms} ms, planned {plan}, came {events:?}")
    }

    /// The connection dies as planned.
    fn expect_end(&self, tracer: &Tracer) -> Result<()> {
        let plan = &self.plan;
        let (idle, interval, _, user_timeout_ms) = self.settings;
        let closed = tracer
            .wait_for_line(PATIENCE, |event| event.is("closed") && self.is_ours(event))
            .context("not seen to die")?;
        let sent = closed.number("probes_out")?;
        let stall_ms = self.stall_ms(tracer, &closed)?;
        // A stall in the middle of a run makes the next one later, and no `late_ms` shows it. It may be
        // long ago: the first of these sockets die while the last are still made.
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
        // Late runs see more silence, and may need a probe less.
        if stall_ms == 0 || user_timeout_ms == 0 {
            closed.expect("probes_out", probes)?;
            let most = most.min(on_time + u64::from(interval) * 500);
            ensure!(
                (on_time..=most + stall_ms + slack).contains(&idle_ms),
                "dead after {idle_ms} ms, planned {on_time} to {most}: {closed}"
            );
        } else {
            ensure!((1..=probes).contains(&sent), "{sent} probes: {closed}");
        }
        Ok(())
    }
}

/// How late the timer wheel makes a timer, and a tick: level n begins at 63 × 8^(n-1) ticks and has
/// granules of 8^n.
fn wheel_ms(length_ms: u64, hz: u64) -> u64 {
    let ticks = length_ms * hz / 1000;
    let level = (0..8).find(|&level| ticks + 1 < 63 * 8_u64.pow(level));
    (8_u64.pow(level.unwrap_or(8)) + 1) * 1000 / hz + 1
}

/// What `explain` says of the client's end.
fn plan_of(bench: &Bench, pair: &Pair) -> Result<Event> {
    let target = format!("{}-{}", pair.client.local()?, pair.client.peer()?);
    told(command(bench, &["--json", &target]))
}

/// What the calculator says.
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
    told(command(bench, &arguments))
}

fn told(command: Command) -> Result<Event> {
    let run = Refused::from(command)?;
    run.expect_code(0)?;
    Event::parse(run.stdout.trim())
}
