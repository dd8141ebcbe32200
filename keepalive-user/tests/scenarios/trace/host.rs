//! What happens to the host during a trace: a sysctl is changed, the wall clock is set.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase};
use crate::kit::event::Event;
use crate::kit::net::{self, Namespace};
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys;
use crate::kit::tracer::{PATIENCE, Tracer};

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "sysctl_changed",
        run: sysctl_changed,
    },
    HardCase {
        name: "clock_step",
        run: clock_step,
    },
];

/// A change in the tracer's own namespace is noticed without any socket, one in another namespace by the
/// next run of a timer there; each is reported once.
fn sysctl_changed(bench: &Bench) -> Result<()> {
    let other = Namespace::create()?;
    net::sysctl("tcp_keepalive_time", 5000)?;
    let pair = Pair::over(LOCALHOST)?;
    let own = Namespace::create()?;
    let tracer = bench.trace(&[])?;
    net::sysctl("tcp_keepalive_intvl", 33)?;
    let change = of(&tracer, &own).context("the change in the tracer's namespace")?;
    change.expect("name", "tcp_keepalive_intvl")?;
    change.expect("old", 75)?;
    change.expect("new", 33)?;
    change.expect("sockets.tracked", 0)?;
    other.enter()?;
    pair.client.set_times(Keepalive::EVERY_SECOND)?;
    pair.client.switch_keepalive(true)?;
    let probe = |line: &Event| {
        line.is_timer("probe_sent") && line.get("socket.netns").as_u64() == Some(other.inode)
    };
    let first = tracer.wait_for_line(PATIENCE, probe);
    let first = first.context("no probe")?.at_ns();
    net::sysctl("tcp_keepalive_time", 4000)?;
    let change = of(&tracer, &other).context("the change in another namespace")?;
    change.expect("name", "tcp_keepalive_time")?;
    change.expect("old", 5000)?;
    change.expect("new", 4000)?;
    change.expect("sockets.tracked", 1)?;
    change.expect("sockets.armed", 1)?;
    change.expect("sockets.own", 1)?;
    ensure!(change.number("since.monotonic_ns")? >= first, "{change}");
    // Two more ticks.
    thread::sleep(Duration::from_secs(2));
    let ended = tracer.interrupt()?;
    let changes = ended.lines.iter().filter(|line| line.is("sysctl")).count();
    ensure!(changes == 2, "{changes} sysctl events");
    ended.end()?.expect("events.sysctl", 2)
}

/// The event about this namespace.
fn of(tracer: &Tracer, namespace: &Namespace) -> Option<Event> {
    tracer.wait_for_line(PATIENCE, |line| {
        line.is("sysctl") && line.get("netns").as_u64() == Some(namespace.inode)
    })
}

/// The wall clock is set by some milliseconds, and back.
fn clock_step(bench: &Bench) -> Result<()> {
    const STEP_US: i64 = 5000;
    let _namespace = Namespace::create()?;
    let tracer = bench.trace(&[])?;
    let start = tracer.start.clone();
    let offset = |event: &Event| event.get("clock_offset_ns").as_i64().unwrap_or_default();
    let mut before = offset(&start);
    for step_us in [STEP_US, -STEP_US] {
        set_clock(step_us)?;
        let direction = step_us.signum();
        let step = tracer.wait_for_line(PATIENCE, |line| {
            line.is("clock_step")
                && line.get("step_us").as_i64().map(i64::signum) == Some(direction)
        });
        let step = step.context("no clock_step")?;
        let by = step.get("step_us").as_i64().unwrap_or_default();
        ensure!((by - step_us).abs() < 2000, "{step}");
        let now = offset(&step);
        ensure!((now - before) / 1000 == by, "{step} after {before}");
        step.expect_clock(now)?;
        before = now;
    }
    let ended = tracer.interrupt()?;
    ended.end()?.expect_clock(before)?;
    ended.end()?.expect("events.clock_step", 2)
}

/// Sets the wall clock by this many microseconds, exactly.
fn set_clock(step_us: i64) -> Result<()> {
    sys::step_wall_clock(step_us).context("adjtimex(ADJ_SETOFFSET)")
}
