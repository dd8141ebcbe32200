//! `explain` on one socket of every kind, and on one that is followed to its end.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::net::Namespace;
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "explain",
        run: explain,
    },
    HardCase {
        name: "explain_follow",
        run: follow,
    },
];

const NOBODY: u32 = 65534;

/// The command line of `explain`.
pub fn command<S: AsRef<OsStr>>(bench: &Bench, arguments: &[S]) -> Command {
    let mut command = Command::new(&bench.keepalive);
    command.arg("explain").args(arguments).stdin(Stdio::null());
    command
}

/// One socket of every kind, and the blocker by name.
fn explain(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let [off, waiting, probing, dying, stuck] = [
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
        Pair::over(LOCALHOST)?,
    ];
    let full = Pair::with_narrow_server()?;
    full.client.arm(Keepalive::after(600))?;
    full.client.fill()?;
    waiting.client.arm(Keepalive::after(600).probes(3))?;
    for deaf in [&probing, &dying, &stuck] {
        deaf.server.deafen()?;
    }
    // Lives for the quarter of an hour that a busy guest may take for all this.
    probing
        .client
        .arm(Keepalive::EVERY_SECOND.interval(10).probes(100))?;
    dying
        .client
        .arm(Keepalive::EVERY_SECOND.interval(600).probes(1))?;
    stuck.client.arm(Keepalive::after(600))?;
    stuck.client.send(b"nobody hears this")?;
    thread::sleep(Duration::from_millis(2500));
    for (pair, outlook, rule, sentence) in [
        (
            &off,
            "keepalive_off",
            None,
            "nobody switched SO_KEEPALIVE on",
        ),
        (
            &waiting,
            "not_idle",
            Some("keepalive_probes"),
            "3 unanswered probes, by TCP_KEEPCNT 3",
        ),
        (
            &probing,
            "probing",
            Some("keepalive_probes"),
            "of 100 unanswered",
        ),
        (
            &dying,
            "probing",
            Some("keepalive_probes"),
            "ends the connection",
        ),
        (
            &stuck,
            "data_in_flight",
            Some("retransmit_timeout"),
            "17 bytes sent and not acknowledged",
        ),
        (
            &full,
            "zero_window",
            Some("window_probe_timeout"),
            "the peer's window is closed",
        ),
    ] {
        let target = format!("{}-{}", pair.client.local()?, pair.client.peer()?);
        let json = Refused::from(command(bench, &[target.as_str(), "--json"]))?;
        json.expect_code(0)?;
        let told = Event::parse(json.stdout.trim())?;
        told.expect("outlook", outlook)?;
        expect_rule(&told, rule)?;
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
    unprivileged(bench)
}

/// The rule that ends it if nothing more is received; sock_diag tells of one timer only.
fn expect_rule(told: &Event, rule: Option<&str>) -> Result<()> {
    if told.get("socket.one_timer_only") == true {
        return Ok(());
    }
    match rule {
        Some(rule) => told.expect("socket.death.rule", rule),
        None => told.expect("socket.death", Value::Null),
    }
}

/// Who may not see whose sockets are whose is told so, not that there are none.
fn unprivileged(bench: &Bench) -> Result<()> {
    let mut command = command(bench, &[&std::process::id().to_string()]);
    command.uid(NOBODY).gid(NOBODY);
    Refused::from(command)?.expect_code(1)?.expect_sentence(&[
        "no TCP socket matches",
        "owners",
        "run as root",
    ])?;
    Ok(())
}

/// Followed to its end: how it died is told, and then that is all.
fn follow(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    pair.client.arm(Keepalive::EVERY_SECOND.probes(3))?;
    let (following, lines) = Following::start(bench, &pair)?;
    pair.server.deafen()?;
    let told = following.end(lines)?;
    for part in [
        "probe 3/3 sent",
        "of 3 unanswered",
        "no answer to 3 probes",
        "killed by keepalive",
    ] {
        ensure!(told.contains(part), "{part:?} is not in {told}");
    }
    // Nothing tells of a socket without keepalive, but that it is gone is seen.
    let silent = Pair::over(LOCALHOST)?;
    let (following, lines) = Following::start(bench, &silent)?;
    silent.client.abort()?;
    let told = following.end(lines)?;
    ensure!(told.contains("The socket has ended"), "{told}");
    Ok(())
}

/// A running `explain --follow`.
struct Following(Running);

impl Following {
    /// Starts it, and waits until it has explained what it follows.
    fn start(bench: &Bench, pair: &Pair) -> Result<(Self, Lines<BufReader<ChildStdout>>)> {
        let target = format!("{}-{}", pair.client.local()?, pair.client.peer()?);
        let mut command = command(bench, &["--follow", &target]);
        let mut child = Running::start(command.stdout(Stdio::piped()))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        for line in lines.by_ref() {
            if line?.contains("tcpdump -ni any") {
                return Ok((Self(child), lines));
            }
        }
        bail!("it ended: {}", child.wait()?)
    }

    /// What it says from then on; it must end by itself.
    fn end(mut self, lines: Lines<BufReader<ChildStdout>>) -> Result<String> {
        let told: Vec<String> = lines.collect::<Result<_, _>>()?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}: {told:?}");
        Ok(told.join("\n"))
    }
}
