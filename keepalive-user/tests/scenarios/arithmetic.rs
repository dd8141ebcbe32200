//! The calculator against the kernel: for settings on either side of every boundary, the number of
//! probes and the time and cause of death must be what `explain` predicts.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::bench::{Bench, HardCase, Refused};
use crate::event::Event;
use crate::net::Namespace;
use crate::socket::{Keepalive, LOCALHOST, Pair};
use crate::tracer::PATIENCE;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "arithmetic",
        run: arithmetic,
    },
    HardCase {
        name: "explain",
        run: explain,
    },
];

/// Idle, interval (seconds), count, user timeout (milliseconds).
const SETTINGS: [(u32, u32, u32, u32); 15] = [
    (1, 1, 1, 0),
    (1, 1, 3, 0),
    (2, 1, 2, 0),
    (1, 2, 2, 0),
    (2, 3, 1, 0),
    (3, 1, 1, 0),
    // A user timeout below the idle time, and around the second and third run.
    (1, 1, 9, 500),
    (1, 1, 9, 1500),
    (1, 1, 9, 1900),
    (1, 1, 9, 2400),
    // It overrides a count that would end sooner.
    (1, 1, 1, 3500),
    (1, 1, 2, 2400),
    (2, 2, 9, 5000),
    (1, 3, 9, 3500),
    (1, 3, 9, 4600),
];
/// A busy machine runs timers later than the timer wheel does.
const BUSY_MS: u64 = 1500;

fn arithmetic(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?.inode.to_string();
    let tracer = bench.trace(&["-N", &netns])?;
    let mut dying = Vec::new();
    for (idle, interval, probes, user_timeout_ms) in SETTINGS {
        let pair = Pair::over(LOCALHOST)?;
        pair.server.deafen()?;
        pair.client.arm(Keepalive {
            idle,
            interval,
            probes,
            user_timeout_ms,
        })?;
        dying.push((pair.client.local()?.port(), pair));
    }
    for ((port, _pair), settings) in dying.iter().zip(SETTINGS) {
        let plan = plan(bench, settings)?;
        let closed = tracer
            .wait_for_line(PATIENCE, |event| {
                event.is("closed") && event.number("socket.local.port").ok() == Some((*port).into())
            })
            .with_context(|| format!("{settings:?} did not die"))?;
        (|| -> Result<()> {
            let number = plan.number("plan.probes.least")?;
            plan.expect("plan.probes.most", number)?;
            closed.expect("probes_out", number)?;
            closed.expect("cause", plan.text("plan.rule"))?;
            let least = plan.number("plan.dead_after_ms.least")?;
            let most = plan.number("plan.dead_after_ms.most")? + BUSY_MS;
            closed.expect_within("idle_ms", least..=most)?;
            Ok(())
        })()
        .with_context(|| format!("{settings:?}, planned {plan}"))?;
    }
    tracer.interrupt()?.end()?;
    Ok(())
}

fn plan(bench: &Bench, settings: (u32, u32, u32, u32)) -> Result<Event> {
    let (idle, interval, count, user_timeout) = settings;
    let options = [
        ("--idle", idle),
        ("--interval", interval),
        ("--count", count),
        ("--user-timeout", user_timeout),
    ];
    let mut arguments = vec!["--json".to_owned()];
    for (name, value) in options {
        arguments.extend([name.to_owned(), value.to_string()]);
    }
    let run = Refused::from(command(bench, &arguments))?;
    run.expect_code(0)?;
    Event::parse(run.stdout.trim())
}

fn command<S: AsRef<std::ffi::OsStr>>(bench: &Bench, arguments: &[S]) -> Command {
    let mut command = Command::new(&bench.keepalive);
    command.arg("explain").args(arguments).stdin(Stdio::null());
    command
}

/// One socket of every kind, and the blocker by name.
fn explain(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let [off, waiting, probing, stuck] = [
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
    ];
    let full = Pair::with_narrow_server()?;
    full.client.arm(Keepalive::after(600))?;
    full.client.fill()?;
    waiting.client.arm(Keepalive::after(600).probes(3))?;
    for deaf in [&probing, &stuck] {
        deaf.server.deafen()?;
    }
    probing.client.arm(Keepalive::EVERY_SECOND.probes(100))?;
    stuck.client.arm(Keepalive::after(600))?;
    stuck.client.send(b"nobody hears this")?;
    std::thread::sleep(std::time::Duration::from_millis(2500));
    for (pair, outlook, sentence) in [
        (&off, "keepalive_off", "nobody switched SO_KEEPALIVE on"),
        (
            &waiting,
            "not_idle",
            "3 unanswered probes, by TCP_KEEPCNT 3",
        ),
        (&probing, "probing", "of 100 unanswered"),
        (
            &stuck,
            "data_in_flight",
            "17 bytes sent and not acknowledged",
        ),
        (&full, "zero_window", "the peer's window is closed"),
    ] {
        let target = format!("{}-{}", pair.client.local()?, pair.client.peer()?);
        let json = Refused::from(command(bench, &[target.as_str(), "--json"]))?;
        json.expect_code(0)?;
        let told = Event::parse(json.stdout.trim())?;
        told.expect("outlook", outlook)?;
        let text = Refused::from(command(bench, &[target.as_str()]))?;
        text.expect_code(0)?;
        for part in [sentence, "tcpdump -ni any"] {
            ensure!(
                text.stdout.contains(part),
                "{part:?} is not in {}",
                text.stdout
            );
        }
        // The same by its cookie.
        let cookie = format!("sk:{}", pair.client.cookie()?);
        Refused::from(command(bench, &[cookie.as_str()]))?.expect_code(0)?;
    }
    // Several match, and there is nobody to ask.
    let port = format!(":{}", off.client.local()?.port());
    Refused::from(command(bench, &[port.as_str()]))?
        .expect_code(1)?
        .expect_sentence(&["2 sockets match", "LOCAL-PEER"])?;
    Refused::from(command(bench, &["sk:123456789abc"]))?
        .expect_code(1)?
        .expect_sentence(&["no TCP socket matches", "--all-netns"])?;
    Ok(())
}
