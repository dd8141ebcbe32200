//! `explain` on one socket in each situation, and `--follow` until a socket ends.

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
use crate::kit::link::{FAR_ADDRESS, Link, NEAR_ADDRESS, drop_everything_at_near};
use crate::kit::net::{self, Namespace};
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "explain",
        run: explain,
    },
    HardCase {
        name: "explain_send_fails",
        run: send_fails,
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

/// One socket in each situation; the output names what blocks the next probe.
fn explain(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let [off, waiting, probing, dying, stuck, full] = situations()?;
    for (pair, outlook, rule, sentence) in [
        (
            &off,
            "keepalive_off",
            None,
            "SO_KEEPALIVE is off (HTTP keep-alive does not",
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
            "data is unacknowledged (17 bytes)",
        ),
        (
            &full,
            "zero_window",
            Some("window_probe_timeout"),
            "the peer's window is closed",
        ),
    ] {
        expect_explained(bench, pair, outlook, rule, sentence)?;
    }
    // Several sockets match; without a terminal `explain` cannot ask which one.
    let port = format!(":{}", off.client.local()?.port());
    Refused::from(command(bench, &[port.as_str()]))?
        .expect_code(1)?
        .expect_sentence(&["2 sockets match", "LOCAL-PEER"])?;
    Refused::from(command(bench, &["sk:123456789abc"]))?
        .expect_code(1)?
        .expect_sentence(&["no TCP socket matches", "--all-netns"])?;
    unprivileged(bench)
}

/// Keepalive off; waiting; two unanswered probes, many and one to go; unacknowledged data; a closed window.
fn situations() -> Result<[Pair; 6]> {
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
    // It must outlive this scenario, which may take 15 minutes on a busy guest.
    probing
        .client
        .arm(Keepalive::EVERY_SECOND.interval(10).probes(100))?;
    dying
        .client
        .arm(Keepalive::EVERY_SECOND.interval(600).probes(1))?;
    stuck.client.arm(Keepalive::after(600))?;
    stuck.client.send(b"no ACK comes back")?;
    thread::sleep(Duration::from_millis(2500));
    Ok([off, waiting, probing, dying, stuck, full])
}

/// Explained by its addresses and by its cookie, as JSON and as text.
fn expect_explained(
    bench: &Bench,
    pair: &Pair,
    outlook: &str,
    rule: Option<&str>,
    sentence: &str,
) -> Result<()> {
    let target = format!("{}-{}", pair.client.local()?, pair.client.peer()?);
    let json = Refused::from(command(bench, &[target.as_str(), "--json"]))?;
    json.expect_code(0)?;
    let explained = Event::parse(json.stdout.trim())?;
    explained.expect("outlook", outlook)?;
    expect_rule(&explained, rule)?;
    let text = Refused::from(command(bench, &[target.as_str()]))?;
    text.expect_code(0)?;
    for part in [sentence, "tcpdump -ni any"] {
        ensure!(
            text.stdout.contains(part),
            "{part:?} is not in {}",
            text.stdout
        );
    }
    // `explain` also accepts the socket's cookie.
    let cookie = format!("sk:{}", pair.client.cookie()?);
    Refused::from(command(bench, &[cookie.as_str()]))?.expect_code(0)?;
    Ok(())
}

/// The rule that ends the connection if no more segments arrive. sock_diag reports only one timer,
/// so the rule is then not compared.
fn expect_rule(explained: &Event, rule: Option<&str>) -> Result<()> {
    if explained.get("socket.one_timer_only") == true {
        return Ok(());
    }
    match rule {
        Some(rule) => explained.expect("socket.death.rule", rule),
        None => explained.expect("socket.death", Value::Null),
    }
}

/// The queue of the near end drops everything: the data waits for the zero-window probe timer, although the
/// peer's window is open.
fn send_fails(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    // A dropped retry counts, and the next one follows after half a second: enough for a slow machine.
    net::sysctl("tcp_retries2", 250)?;
    let link = Link::create()?;
    let listener = link.at_far(|| Tcp::new(FAR_ADDRESS))?;
    let pair = Pair::from(Tcp::new(NEAR_ADDRESS)?, listener, FAR_ADDRESS, FAR_ADDRESS)?;
    pair.client.arm(Keepalive::after(600))?;
    drop_everything_at_near()?;
    pair.client.send(b"cannot be sent")?;
    thread::sleep(Duration::from_millis(1500));
    let sentence = "14 bytes cannot be sent from this host, although the peer's window is open";
    expect_explained(bench, &pair, "send_fails", Some("send_timeout"), sentence)
}

/// A user who may not read other processes' descriptors gets an error about that, not "no socket
/// matches".
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

/// `--follow` prints how the connection ended, and then exits.
fn follow(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    pair.client.arm(Keepalive::EVERY_SECOND.probes(3))?;
    let (following, lines) = Following::start(bench, &pair)?;
    pair.server.deafen()?;
    let printed = following.end(lines)?;
    for part in [
        "probe 3/3 ",
        "of 3 unanswered",
        "no answer to 3 probes",
        "killed by keepalive",
    ] {
        ensure!(printed.contains(part), "{part:?} is not in {printed}");
    }
    // The end of a socket without keepalive is reported, too.
    let silent = Pair::over(LOCALHOST)?;
    let (following, lines) = Following::start(bench, &silent)?;
    silent.client.abort()?;
    let printed = following.end(lines)?;
    ensure!(printed.contains("aborted by its owner"), "{printed}");
    Ok(())
}

/// A running `explain --follow`.
struct Following(Running);

impl Following {
    /// Starts it, and waits until it has printed the first explanation.
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

    /// What it prints from then on; it must end by itself.
    fn end(mut self, lines: Lines<BufReader<ChildStdout>>) -> Result<String> {
        let printed: Vec<String> = lines.collect::<Result<_, _>>()?;
        let status = self.0.wait()?;
        ensure!(status.success(), "{status}: {printed:?}");
        Ok(printed.join("\n"))
    }
}
