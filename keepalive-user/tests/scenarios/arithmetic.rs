//! The arithmetic against the kernel: for settings on either side of every boundary, the number of
//! probes and the time and cause of death must be what `explain` predicts.
//!
//! Timers run as late as the timer wheel makes them, which the prediction knows; a machine that
//! stalls makes them later, which `late_ms` shows. What stalled is tried again, and its time judged
//! without the stall. So is what was not seen, as on kernels that do not run every BPF program
//! (`applicability::ATTEMPTS`): but once it must be seen.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::bench::{Bench, HardCase, Refused};
use crate::event::Event;
use crate::explain::command;
use crate::net::{Namespace, sysctl};
use crate::socket::{Keepalive, LOCALHOST, Pair};
use crate::tracer::{PATIENCE, Tracer};

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
/// How often what stalled is tried.
const ROUNDS: usize = 4;
/// A timer is set again a little after it ran, which no number shows (`expect::Facts::about`).
const STALL_MS: u64 = 60;

fn arithmetic(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?.inode.to_string();
    let (idle, interval, count, _) = DEFAULTS;
    sysctl("tcp_keepalive_time", idle)?;
    sysctl("tcp_keepalive_intvl", interval)?;
    sysctl("tcp_keepalive_probes", count)?;
    let tracer = bench.trace(&["-N", &netns])?;
    let mut left: Vec<(Settings, Again)> =
        SETTINGS.map(|settings| (settings, Again::Stalled)).into();
    for _ in 0..ROUNDS {
        let settings: Vec<Settings> = left.iter().map(|(settings, _)| *settings).collect();
        left = round(bench, &tracer, &settings)?;
    }
    for (settings, again) in left {
        ensure!(again == Again::Stalled, "{settings:?}: never seen to die");
    }
    tracer.interrupt()?.end()?;
    Ok(())
}

/// Why settings are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// All is as planned, but for what stalls explain.
    Stalled,
    /// Not all events came.
    Unseen,
}

/// Lets a connection die of each of the settings; those to be tried again.
fn round(bench: &Bench, tracer: &Tracer, settings: &[Settings]) -> Result<Vec<(Settings, Again)>> {
    let mut dying = Vec::new();
    for &settings in settings {
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
        // A port alone may have been that of one that died before.
        let ports = (pair.client.local()?.port(), pair.client.peer()?.port());
        pair.server.deafen()?;
        arm(&pair, settings)?;
        dying.push((settings, ports, plan, pair));
    }
    let mut left = Vec::new();
    for (settings, ports, plan, _pair) in &dying {
        let again = expect_end(tracer, *settings, *ports, plan)
            .with_context(|| format!("{settings:?}, planned {plan}"))?;
        left.extend(again.map(|again| (*settings, again)));
    }
    Ok(left)
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

/// The connection dies as planned, as far as that was seen.
fn expect_end(
    tracer: &Tracer,
    settings: Settings,
    ports: (u16, u16),
    plan: &Event,
) -> Result<Option<Again>> {
    let is_ours = |event: &Event| {
        event
            .key()
            .is_some_and(|key| (key.local_port, key.peer_port) == ports)
    };
    let closed = tracer.wait_for_line(PATIENCE, |event| event.is("closed") && is_ours(event));
    let Some(closed) = closed else {
        return Ok(Some(Again::Unseen));
    };
    let key = closed.key().context("no socket")?;
    let runs: Vec<Event> = tracer
        .events_of(key)
        .into_iter()
        .filter(|event| event.is("timer"))
        .collect();
    // Those since the peer was last heard: the probes, and the one that killed.
    let sent = closed.number("probes_out")?;
    let Some(last) = runs.len().checked_sub(usize::try_from(sent)? + 1) else {
        return Ok(Some(Again::Unseen));
    };
    let (idle, interval, ..) = settings;
    let hz = tracer.start.number("hz")?;
    let mut stall_ms = 0;
    for (number, run) in runs[last..].iter().enumerate() {
        let seconds = if number == 0 { idle } else { interval };
        let allowed = wheel_ms(u64::from(seconds) * 1000, hz);
        stall_ms += run.number("late_ms")?.saturating_sub(allowed);
    }
    let slack = STALL_MS * (sent + 1);
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
    if stall_ms == 0 || settings.3 == 0 {
        closed.expect("probes_out", probes)?;
        let most = most.min(on_time + u64::from(interval) * 500);
        ensure!(
            (on_time..=most + stall_ms + slack).contains(&idle_ms),
            "dead after {idle_ms} ms, planned {on_time} to {most}: {closed}"
        );
    } else {
        ensure!((1..=probes).contains(&sent), "{sent} probes: {closed}");
    }
    Ok((stall_ms > 0).then_some(Again::Stalled))
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
