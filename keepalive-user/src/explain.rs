//! # `keepalive explain`
//!
//! One socket, or none: what its settings mean, what stands between now and a probe, and what the
//! kernel will do when.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    net::IpAddr,
};

use anyhow::{Context, Result, bail};

use crate::{
    arithmetic,
    attribution::Attribution,
    cli::{BackendChoice, Explain, Loading, Recording, Selection, Target, Trace},
    clock::Clock,
    event::{Blocker, Explanation, ListedSocket, Outlook, PlannedSettings, TcpState, TimerKind},
    exit::{Exit, Refusal, is_broken_pipe},
    listing::{Lister, row},
    namespace::{self, Namespace},
    output::explain,
    source::Options,
    trace,
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
    let plan = arithmetic::plan(PlannedSettings {
        time_ms: seconds(given.idle, sysctls.time_ms),
        interval_ms: seconds(given.interval, sysctls.interval_ms),
        probes: given.count.unwrap_or(sysctls.probes),
        user_timeout_ms: given.user_timeout.unwrap_or(0).into(),
        retries2: given.retries2.unwrap_or(sysctls.retries2),
    });
    show(
        &Explanation {
            socket: None,
            outlook: None,
            plan: Some(plan),
            capture_filter: None,
        },
        arguments.json,
    )
}

fn explain_socket(target: &Target, arguments: &Explain) -> Result<Exit> {
    let socket = find(target, arguments)?;
    let follow = arguments.follow.then(|| follower(&socket));
    show(&explanation(socket), arguments.json)?;
    match follow {
        Some(trace) => trace::run(&trace),
        None => Ok(Exit::Success),
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

/// The one socket that is meant.
fn find(target: &Target, arguments: &Explain) -> Result<ListedSocket> {
    let options = Options {
        btf: arguments.btf.clone(),
        ..Options::default()
    };
    let namespaces: Vec<Namespace> = if arguments.all_netns {
        Namespace::all()?.0.into_values().collect()
    } else {
        vec![Namespace::current()?]
    };
    let clock = Clock::now()?;
    let listing = Lister::open(None, &options)?.list(&namespaces, true, &|_| true)?;
    let mut attribution = Attribution::new(true);
    let mut matching = Vec::new();
    for (index, socket) in listing.sockets.iter().enumerate() {
        let mut row = row::row(socket, index as u64 + 1, listing.hz, &clock);
        (row.process, row.pids) = listing.owners.processes(socket.id.inode);
        if target.is(&row) {
            (row.cgroup, row.container_id) = attribution.cgroup(socket.id.cgroup);
            matching.push((row, listing.sysctls.get(&socket.id.netns)));
        }
    }
    if matching.is_empty() {
        let place = if arguments.all_netns {
            "on this machine"
        } else {
            "in this network namespace (--all-netns looks in all)"
        };
        bail!(
            "no TCP socket matches, among {} {place}; `keepalive list` shows them",
            listing.sockets.len()
        );
    }
    let chosen = choose(matching.iter().map(|(row, _)| row))?;
    Ok(matching.swap_remove(chosen).0)
}

/// Lets the user choose among several, if there is one to ask.
fn choose<'a>(rows: impl ExactSizeIterator<Item = &'a ListedSocket>) -> Result<usize> {
    let count = rows.len();
    if count == 1 {
        return Ok(0);
    }
    for (index, row) in rows.take(SHOWN).enumerate() {
        anstream::eprintln!("{:>4}  {}", index + 1, explain::choice(row));
    }
    if count > SHOWN {
        anstream::eprintln!("      … and {} more", count - SHOWN);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        bail!("{count} sockets match: say which by LOCAL-PEER or sk:COOKIE, as listed above");
    }
    anstream::eprint!("Which one? [1-{}] ", count.min(SHOWN));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    match line.trim().parse::<usize>() {
        Ok(number) if (1..=count.min(SHOWN)).contains(&number) => Ok(number - 1),
        _ => bail!("{:?} is none of them", line.trim()),
    }
}

/// Most sockets that a choice is offered of.
const SHOWN: usize = 20;

fn explanation(socket: ListedSocket) -> Explanation {
    let plan = arithmetic::plan_of(&socket);
    let connected = !matches!(
        socket.socket.state,
        TcpState::Listen | TcpState::Close | TcpState::TimeWait | TcpState::SynRecv
    );
    Explanation {
        outlook: Some(outlook(&socket)),
        plan: plan.filter(|_| connected),
        capture_filter: connected.then(|| capture_filter(&socket)),
        socket: Some(Box::new(socket)),
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

/// A trace of this connection alone.
fn follower(socket: &ListedSocket) -> Trace {
    Trace {
        count: None,
        duration: None,
        json: false,
        output: None,
        report: None,
        audit: false,
        record: Recording::default(),
        live_answers: false,
        cost: false,
        loading: Loading {
            backend: BackendChoice::Auto,
            btf: None,
            ring_bytes: 1 << 20,
        },
        verbose: false,
        select: Selection {
            local_port: Some(socket.socket.local.port),
            remote_port: Some(socket.socket.peer.port),
            netns: Some(socket.socket.netns.to_string()),
            ..Selection::default()
        },
    }
}
