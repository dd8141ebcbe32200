//! The audit on real sockets: what must be found is found, nothing else, and the exit code tells.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::{Bench, HardCase, Refused};
use crate::event::Event;
use crate::net::Namespace;
use crate::socket::{Keepalive, LOCALHOST, Pair};

pub const CASES: &[HardCase] = &[HardCase {
    name: "audit",
    run: audit,
}];

fn audit(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let [guarded, zombie, stuck] = [
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
    ];
    let sound = Keepalive::after(60).interval(10).probes(3);
    for end in [&guarded.client, &guarded.server, &stuck.server] {
        end.arm(sound)?;
    }
    stuck.server.deafen()?;
    stuck.client.arm(sound.user_timeout_ms(75_000))?;
    stuck.client.send(b"nobody hears this")?;
    // Long enough for three retransmissions.
    thread::sleep(Duration::from_secs(4));
    let found = findings(bench, &["--silent", "2s"])?;
    let of = |pair: &Pair, client: bool| -> Result<Vec<String>> {
        let (local, peer) = if client {
            (pair.client.local()?, pair.client.peer()?)
        } else {
            (pair.server.local()?, pair.server.peer()?)
        };
        Ok(found
            .iter()
            .filter(|finding| {
                finding.number("socket.local.port").ok() == Some(local.port().into())
                    && finding.number("socket.peer.port").ok() == Some(peer.port().into())
            })
            .map(|finding| finding.text("rule").to_owned())
            .collect())
    };
    for client in [true, false] {
        ensure!(of(&guarded, client)?.is_empty(), "{found:?}");
        ensure!(of(&zombie, client)? == ["zombie_suspect"], "{found:?}");
    }
    ensure!(
        of(&stuck, true)? == ["suppressed", "count_ignored"],
        "{found:?}"
    );
    // Worst first: zombies, then warnings, then the listeners.
    let severities: Vec<&str> = found
        .iter()
        .map(|finding| finding.text("severity"))
        .collect();
    ensure!(severities[..2] == ["critical"; 2], "{severities:?}");
    ensure!(
        severities.last() == Some(&"info"),
        "no listener found: {severities:?}"
    );
    codes(bench, &zombie)
}

/// What the exit code says, and what is left out.
fn codes(bench: &Bench, zombie: &Pair) -> Result<()> {
    let silent = ["--silent", "2s"];
    let code = |more: &[&str], expected: i32| -> Result<()> {
        let run = Refused::from(command(bench, &[&silent[..], more].concat()))?;
        run.expect_code(expected)
            .with_context(|| format!("{more:?}"))?;
        Ok(())
    };
    code(&[], 0)?;
    code(&["--fail-on", "critical"], 5)?;
    code(&["--fail-on", "zombie_suspect"], 5)?;
    code(&["--fail-on", "late_for_middlebox"], 0)?;
    code(
        &["--fail-on", "late_for_middlebox", "--middlebox", "aws-nlb"],
        0,
    )?;
    code(
        &["--fail-on", "late_for_middlebox", "--idle-timeout", "30s"],
        5,
    )?;
    code(&["--fail-on", "critical", "--ignore", "zombie_suspect"], 0)?;
    code(&["--fail-on", "critical", "--rule", "suppressed"], 0)?;
    let file = "/tmp/keepalive-scenario.ignore";
    let port = zombie.client.peer()?.port();
    std::fs::write(file, format!("# known\nzombie_suspect :{port}\n"))?;
    code(&["--fail-on", "critical", "--ignore-file", file], 0)?;
    std::fs::write(file, "zombie_suspect :1\nnonsense\n")?;
    Refused::from(command(bench, &["--ignore-file", file]))?
        .expect_code(2)?
        .expect_sentence(&["line 2", "nonsense", "zombie_suspect"])?;
    std::fs::remove_file(file)?;
    Ok(())
}

fn findings(bench: &Bench, arguments: &[&str]) -> Result<Vec<Event>> {
    let mut command = command(bench, arguments);
    command.arg("--json");
    let run = Refused::from(command)?;
    run.expect_code(0)?;
    let mut lines: Vec<Event> = run
        .stdout
        .lines()
        .map(Event::parse)
        .collect::<Result<_>>()?;
    let end = lines.pop().context("no line at all")?;
    ensure!(end.is("audit_end"), "the last line is {end}");
    Ok(lines)
}

fn command(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.keepalive);
    command.arg("audit").args(arguments).stdin(Stdio::null());
    command
}
