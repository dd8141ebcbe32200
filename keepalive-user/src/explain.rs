//! # `keepalive explain`
//!
//! One socket, or none: what its settings mean, what stands between now and a probe, and what the
//! kernel will do when.

mod find;
mod live;

use std::{
    io::{self, Write},
    net::IpAddr,
};

use anyhow::{Context, Result, bail};

use self::find::{Finder, Found};
use crate::{
    arithmetic,
    cli::{Explain, Target},
    clock,
    event::{
        Blocker, Explanation, LastAction, LastRun, ListedSocket, Outlook, OwnerCloses,
        PlannedSettings, TcpState, TimerKind,
    },
    exit::{Exit, Refusal, is_broken_pipe},
    namespace,
    output::explain,
    sandbox::Needs,
    source::Options,
};

/// Runs the command.
pub fn run(arguments: &Explain) -> Result<Exit> {
    let outcome = match &arguments.target {
        Some(target) => explain_socket(target, arguments),
        None if arguments.settings.is_given() => calculate(arguments).map(|()| Exit::Success),
        None => Err(Refusal::new(
            Exit::Usage,
            "which socket? give a PID, :PORT, ADDR:PORT, LOCAL-PEER or sk:COOKIE, as in \
             `keepalive explain :5432`; or settings to calculate with, as in `keepalive explain \
             --idle 60`; see `keepalive explain --help`",
        )
        .into()),
    };
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome,
    }
}

/// What settings mean, without a socket.
fn calculate(arguments: &Explain) -> Result<()> {
    let given = &arguments.settings;
    let sysctls = namespace::sysctls()
        .context("/proc/sys/net/ipv4 does not show this namespace's defaults")?;
    let seconds = |given: Option<u32>, default: u64| given.map_or(default, |s| u64::from(s) * 1000);
    let settings = PlannedSettings {
        time_ms: seconds(given.idle, sysctls.time_ms),
        interval_ms: seconds(given.interval, sysctls.interval_ms),
        probes: given.count.unwrap_or(sysctls.probes),
        user_timeout_ms: given.user_timeout.unwrap_or(0).into(),
        retries2: given.retries2.unwrap_or(sysctls.retries2),
        rto_max_ms: arithmetic::RTO_MAX_MS,
    };
    let told = Explanation {
        plan: Some(arithmetic::plan(settings, clock::hz())),
        ..Explanation::default()
    };
    show(&told, arguments.json)
}

fn explain_socket(target: &Target, arguments: &Explain) -> Result<Exit> {
    let options = Options {
        btf: arguments.btf.clone(),
        verbose: arguments.verbose,
        ..Options::default()
    };
    if arguments.follow {
        return live::follow(target, arguments, &options);
    }
    let mut finder = Finder::open(arguments, &options)?;
    let found = finder.find(target)?;
    let Some(time) = arguments.watch else {
        let explained = explanation(&found);
        arguments.sandbox.enter(&Needs::printing());
        show(&explained, arguments.json)?;
        return Ok(Exit::Success);
    };
    let needs = finder.needs(&found)?;
    let closes = live::watch(&found, time, &options, &|| arguments.sandbox.enter(&needs))?;
    let with = |found: &Found, owner_closes: Option<OwnerCloses>| Explanation {
        owner_closes,
        ..explanation(found)
    };
    match finder.again(&found)? {
        Some(found) => {
            show(&with(&found, closes), arguments.json)?;
            Ok(Exit::Success)
        }
        None => {
            show(&with(&found, closes), arguments.json)?;
            bail!("the socket ended while it was watched; this is how it was before");
        }
    }
}

fn show(explanation: &Explanation, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        explain::json(explanation, &mut out)?;
    } else {
        explain::text(explanation, &mut out)?;
    }
    out.flush().context("cannot write")
}

fn explanation(found: &Found) -> Explanation {
    let socket = &found.row;
    let plan = arithmetic::plan_of(socket, clock::hz());
    let connected = !matches!(
        socket.socket.state,
        TcpState::Listen | TcpState::Close | TcpState::TimeWait | TcpState::SynRecv
    );
    let host = namespace::host();
    Explanation {
        outlook: Some(outlook(socket)),
        last_run: last_run(socket),
        sysctl: found.sysctls,
        host_sysctl: host
            .filter(|(netns, _)| *netns != socket.socket.netns)
            .map(|(_, sysctls)| sysctls),
        owner_closes: None,
        plan: plan.filter(|_| connected),
        capture_filter: connected.then(|| capture_filter(socket)),
        socket: Some(Box::new(socket.clone())),
    }
}

/// What the timer last did, read off its deadline: a probe is followed by the interval, all else by
/// the idle time or what is left of it.
fn last_run(socket: &ListedSocket) -> Option<LastRun> {
    /// An answer takes a round trip.
    const AT_ONCE_MS: u64 = 1000;
    let keepalive = socket.keepalive.filter(|keepalive| keepalive.enabled)?;
    let timer = |kind| socket.timers.iter().find(|timer| timer.kind == kind);
    let left = timer(TimerKind::Keepalive)?.in_ms;
    let (time, interval) = (keepalive.time_ms, keepalive.interval_ms);
    let after_probe = interval.checked_sub(left);
    let run = |action| move |ago_ms| LastRun { ago_ms, action };
    if timer(TimerKind::WindowProbe).is_some() {
        None
    } else if socket.probes_out > 0 {
        after_probe.map(run(LastAction::ProbeSent))
    } else if left > interval {
        time.checked_sub(left).map(run(LastAction::Armed))
    } else if interval < time {
        let silence = socket.silence_ms?;
        after_probe
            .filter(|ago| ago.checked_sub(silence).is_some_and(|rtt| rtt < AT_ONCE_MS))
            .map(run(LastAction::ProbeAnswered))
    } else {
        None
    }
}

/// What stands between now and a probe: the first that applies, in the kernel's own order.
fn outlook(socket: &ListedSocket) -> Outlook {
    let runs = |kind| socket.timers.iter().any(|timer| timer.kind == kind);
    match socket.socket.state {
        TcpState::Listen
        | TcpState::Close
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::TimeWait => return Outlook::NotConnected,
        _ if runs(TimerKind::FinWait2) => return Outlook::FinWait2,
        _ => {}
    }
    let Some(keepalive) = &socket.keepalive else {
        return Outlook::Unknown;
    };
    let blocked = socket.next_probe.and_then(|next| next.blocked_by);
    if runs(TimerKind::WindowProbe) {
        Outlook::ZeroWindow
    } else if !keepalive.enabled {
        Outlook::KeepaliveOff
    } else if blocked == Some(Blocker::DataInFlight) || runs(TimerKind::Retransmit) {
        Outlook::DataInFlight
    } else if blocked == Some(Blocker::DataUnsent) {
        Outlook::DataUnsent
    } else if socket.probes_out > 0 {
        Outlook::Probing
    } else {
        Outlook::NotIdle
    }
}

/// A probe is an ACK without data: no flag and no port of its own.
fn capture_filter(socket: &ListedSocket) -> String {
    let (local, peer) = (&socket.socket.local, &socket.socket.peer);
    let (family, length) = match peer.address {
        IpAddr::V4(_) => (
            "ip",
            "ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) == 0",
        ),
        // tcpdump cannot look behind IPv6 extension headers; there are none on a probe.
        IpAddr::V6(_) => ("ip6", "ip6[4:2] - ((ip6[52] & 0xf0) >> 2) == 0"),
    };
    format!(
        "{family} and tcp and host {} and host {} and port {} and port {} and {length}",
        local.address, peer.address, local.port, peer.port
    )
}

#[cfg(test)]
mod tests;
