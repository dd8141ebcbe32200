//! The audit on real sockets: it reports exactly the expected findings, and the exit code follows
//! from them.

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
        let (local, peer) = (pair.client.local()?, pair.client.peer()?);
        Ok(found
            .iter()
            .filter(|finding| {
                finding.number("socket.local.port").ok() == Some(local.port().into())
                    && finding.number("socket.peer.port").ok() == Some(peer.port().into())
            })
            .map(|finding| finding.text("rule").to_owned())
            .collect())
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
    Ok(lines)
}

fn command(bench: &Bench, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.keepalive);
    command.arg("audit").args(arguments).stdin(Stdio::null());
    command
}
