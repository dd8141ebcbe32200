//! The audit on real sockets: it reports exactly the expected findings, and the exit code follows
//! from them.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::link::{FAR_ADDRESS, Link, NEAR_ADDRESS};
use crate::kit::net::{Namespace, sysctl};
use crate::kit::process::Running;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "audit",
        run: audit,
    },
    HardCase {
        name: "audit_sides",
        run: sides,
    },
    HardCase {
        name: "audit_conntrack",
        run: conntrack,
    },
];

const NFT: &str = "/usr/sbin/nft";

const NOBODY: u32 = 65534;

fn audit(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let link = Link::create()?;
    let [guarded, zombie, stuck] = [across(&link)?, across(&link)?, across(&link)?];
    let at_home = Pair::over(LOCALHOST)?;
    let sound = Keepalive::after(60).interval(10).probes(3);
    guarded.client.arm(sound)?;
    stuck.server.deafen()?;
    stuck.client.arm(sound.user_timeout_ms(75_000))?;
    stuck.client.send(b"no ACK comes back")?;
    // Long enough for three retransmissions.
    thread::sleep(Duration::from_secs(4));
    let found = findings(bench, &["--silent", "2s"])?;
    let of = |pair: &Pair| -> Result<Vec<String>> {
        Ok(of(&found, (pair.client.local()?, pair.client.peer()?)))
    };
    ensure!(of(&guarded)?.is_empty(), "{found:?}");
    ensure!(of(&zombie)? == ["zombie_suspect"], "{found:?}");
    // Both ends are on this host: if the peer were gone, the kernel would report it.
    ensure!(of(&at_home)?.is_empty(), "{found:?}");
    ensure!(of(&stuck)? == ["suppressed", "count_ignored"], "{found:?}");
    // Worst first: zombies, then warnings, then the listeners.
    let severities: Vec<&str> = found
        .iter()
        .map(|finding| finding.text("severity"))
        .collect();
    ensure!(severities[0] == "critical", "{severities:?}");
    ensure!(
        severities.last() == Some(&"info"),
        "no listener found: {severities:?}"
    );
    codes(bench, &zombie, &guarded)?;
    unprivileged(bench)
}

/// The near namespace tracks nothing, whatever its sysctl; the far one tracks, and forwards.
fn conntrack(bench: &Bench) -> Result<()> {
    const TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    const RULES: &str = "table ip t { chain c { type filter hook input priority 0; \
                         ct state invalid drop; }; }";
    let _namespace = Namespace::create()?;
    let link = Link::create()?;
    link.at_far(|| {
        let output = Command::new(NFT).arg(RULES).output().context(NFT)?;
        ensure!(output.status.success(), "{NFT}: {output:?}");
        std::fs::write(TIMEOUT, "60").context(TIMEOUT)?;
        sysctl("ip_forward", 1)
    })?;
    // Without a process in it the far namespace cannot be found.
    let _process = link.at_far(|| Running::start(Command::new("sleep").arg("60")))?;
    std::fs::write(TIMEOUT, "30").context(TIMEOUT)?;
    let pair = across(&link)?;
    pair.client.arm(Keepalive::after(300))?;
    pair.client.send(b"tracked")?;
    pair.server.receive(b"tracked".len())?;
    let far = link.far.inode.to_string();
    for middlebox in ["conntrack", &format!("conntrack:{far}")] {
        let found = findings(bench, &["--middlebox", middlebox])?;
        let late = found
            .iter()
            .find(|it| it.text("rule") == "late_for_middlebox");
        let evidence = late.context("no finding")?.text("evidence");
        for part in [&format!("network namespace {far}"), "after 60 s"] {
            ensure!(evidence.contains(part), "{middlebox}: {evidence}");
        }
    }
    let near = link.near.inode;
    let run = Refused::from(command(
        bench,
        &["--middlebox", &format!("conntrack:{near}")],
    ))?;
    run.expect_code(0)?;
    ensure!(run.stdout.contains("after 30 s"), "{}", run.stdout);
    Ok(())
}

/// Which side does not do its part, seen from the far end: a peer that probes, a program that does not close,
/// accept or read; and a connection of which both ends are here.
fn sides(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let link = Link::create()?;
    let [probed, closed, unread] = [across(&link)?, across(&link)?, across(&link)?];
    probed.client.arm(Keepalive::EVERY_SECOND)?;
    let ends = |pair: &Pair| -> Result<_> { Ok((pair.server.local()?, pair.server.peer()?)) };
    let [of_probed, of_closed, of_unread] = [ends(&probed)?, ends(&closed)?, ends(&unread)?];
    closed.client.finish()?;
    unread.client.send(b"not read")?;
    let listener = link.at_far(|| Tcp::new(FAR_ADDRESS))?;
    listener.listen(FAR_ADDRESS)?;
    let early = Tcp::new(NEAR_ADDRESS)?;
    early.connect(listener.local()?)?;
    let of_early = (early.peer()?, early.local()?);
    // From one own address to another.
    let here = link.at_far(|| {
        let client = Tcp::new(LOCALHOST)?;
        client.bind(LOCALHOST)?;
        Pair::from(client, Tcp::new(FAR_ADDRESS)?, FAR_ADDRESS, FAR_ADDRESS)
    })?;
    thread::sleep(Duration::from_secs(4));
    let (found, end) = link.at_far(|| output(bench, &["--silent", "3s"]))?;
    // sock_diag does not report the peer's probes.
    let is_complete = end.text("source") == "iterator";
    let of_probe = if is_complete {
        "only_peer_probes"
    } else {
        "zombie_suspect"
    };
    for (ends, rules) in [
        (of_probed, &[of_probe][..]),
        (of_closed, &["close_wait"]),
        (of_unread, &["zombie_suspect", "not_read"]),
        (ends(&here)?, &[]),
        ((here.client.local()?, here.client.peer()?), &[]),
    ] {
        ensure!(
            of(&found, ends) == rules,
            "{rules:?} of {ends:?}: {found:?}"
        );
    }
    if !is_complete {
        return Ok(());
    }
    ensure!(of(&found, of_early) == ["not_accepted"], "{found:?}");
    let queue = format!(
        "No process has accepted it: it waits in the queue of LISTEN {} (ka-scenarios/{}), 1 of at most",
        listener.local()?,
        std::process::id()
    );
    let target = format!("{}-{}", of_early.0, of_early.1);
    let text = link.at_far(|| Refused::from(crate::explain::command(bench, &[target.as_str()])))?;
    ensure!(
        text.stdout.contains(&queue),
        "{queue:?} is not in {}",
        text.stdout
    );
    Ok(())
}

/// The rules that a connection breaks, worst first.
fn of(found: &[Event], (local, peer): (SocketAddr, SocketAddr)) -> Vec<String> {
    let is_end = |finding: &Event, end: &str, address: SocketAddr| {
        finding.text(&format!("socket.{end}.address")) == address.ip().to_string()
            && finding.number(&format!("socket.{end}.port")).ok() == Some(address.port().into())
    };
    let found = found.iter();
    found
        .filter(|finding| is_end(finding, "local", local) && is_end(finding, "peer", peer))
        .map(|finding| finding.text("rule").to_owned())
        .collect()
}

/// A connection to the far end of the link.
fn across(link: &Link) -> Result<Pair> {
    let listener = link.at_far(|| Tcp::new(FAR_ADDRESS))?;
    Pair::from(Tcp::new(NEAR_ADDRESS)?, listener, FAR_ADDRESS, FAR_ADDRESS)
}

/// Without privileges few sockets can be judged; this must not count as "no findings".
fn unprivileged(bench: &Bench) -> Result<()> {
    let as_nobody = |arguments: &[&str]| {
        let mut command = command(bench, arguments);
        command.uid(NOBODY).gid(NOBODY);
        Refused::from(command)
    };
    as_nobody(&["--json"])?.expect_code(0)?;
    let run = as_nobody(&["--json", "--fail-on", "critical"])?;
    run.expect_code(3)?;
    let end = Event::parse(run.stdout.lines().last().context("no output")?)?;
    end.expect("sockets", 0)?;
    ensure!(end.number("not_judged")? >= 4, "{end}");
    Ok(())
}

/// The exit code of `--fail-on`, and the findings that other options exclude.
fn codes(bench: &Bench, zombie: &Pair, guarded: &Pair) -> Result<()> {
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
    let behind = |timeout: [&str; 2], pair: &Pair, expected: i32| -> Result<()> {
        let port = pair.client.peer()?.port().to_string();
        let arguments = ["--fail-on", "late_for_middlebox", "-R", &port];
        code(&[&arguments[..], &timeout].concat(), expected)
    };
    // Its first probe leaves after 60 s; the zombie sends none.
    behind(["--middlebox", "aws-nlb"], guarded, 0)?;
    behind(["--idle-timeout", "30s"], guarded, 5)?;
    behind(["--middlebox", "aws-nlb"], zombie, 5)?;
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
    output(bench, arguments).map(|(findings, _)| findings)
}

/// The findings, and the last line.
fn output(bench: &Bench, arguments: &[&str]) -> Result<(Vec<Event>, Event)> {
    let mut command = command(bench, arguments);
    command.arg("--json");
    let run = Refused::from(command)?;
    run.expect_code(0)?;
    let mut lines: Vec<Event> = run
        .stdout
        .lines()
        .map(Event::parse)
        .collect::<Result<_>>()?;
    let end = lines.pop().context("no output")?;
    ensure!(end.is("audit_end"), "the last line is {end}");
    Ok((lines, end))
}

fn command(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.keepalive);
    command.arg("audit").args(arguments).stdin(Stdio::null());
    command
}
