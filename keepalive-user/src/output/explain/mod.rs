//! An explanation in plain sentences.

mod closes;
mod outlook;
mod place;
mod plan;

use std::io::Write;

use anyhow::{Context, Result};
use jiff::tz::TimeZone;

pub use self::plan::if_silent;
use self::{outlook::why, plan::stuck};
use super::{
    json::json_line,
    words::{RuleValues, clock, owner, rule, unless},
};
use crate::core::{
    event::{
        Cause, Explanation, Keepalive, LastAction, LastRun, ListedSocket, MatchedEnd, Origin,
        Outlook, Plan, Sysctl, TcpState, TimerKind,
    },
    format::{millis, name},
};

/// One JSON object.
pub fn json(explanation: &Explanation, writer: &mut impl Write) -> Result<()> {
    json_line(explanation, writer)
}

/// Sentences, one per line.
pub fn text(explanation: &Explanation, writer: &mut impl Write) -> Result<()> {
    let mut lines = Vec::new();
    let socket = explanation.socket.as_deref();
    if let Some(socket) = socket {
        lines.push(heading(socket));
        lines.extend(explanation.matched.map(|end| matched(end, socket)));
        lines.push(how_set(socket));
        lines.extend(elsewhere(socket, explanation));
        lines.extend(place::sentences(socket));
        lines.extend(explanation.last_run.map(past));
        lines.extend(future(explanation));
        lines.extend(timers(socket));
        lines.extend(armed_before(socket, explanation.plan.as_ref()));
    }
    if let Some(plan) = &explanation.plan {
        let keepalive = socket.and_then(|socket| socket.keepalive);
        // An orphan ends by another rule.
        if socket.is_none_or(|socket| !socket.orphan) {
            if keepalive.is_none_or(|keepalive| keepalive.enabled) {
                lines.extend(if_silent(plan));
            }
            lines.push(stuck(plan));
        }
    }
    if let Some((owner, peer)) = explanation.owner_closes.zip(explanation.peer_closes) {
        lines.push(closes::sentence(&owner, &peer, socket));
    }
    if let Some(filter) = &explanation.capture_filter {
        lines.push(format!(
            "A probe looks like any ACK in tcpdump: no data, sequence number one below the \
             next expected one (shown with -vv). Capture: tcpdump -ni any -vv '{filter}'"
        ));
    }
    for line in lines {
        writeln!(writer, "{line}").context("cannot write")?;
    }
    Ok(())
}

/// Whether a later state of the same socket differs enough to be printed.
pub fn differs(before: &Explanation, now: &Explanation) -> bool {
    let rule = |state: &Explanation| Some(state.socket.as_ref()?.death?.rule);
    before.outlook != now.outlook || rule(before) != rule(now)
}

/// Prints the sentences that changed, for `--follow`.
pub fn changes(explanation: &Explanation, zone: &TimeZone, writer: &mut impl Write) -> Result<()> {
    let Some(socket) = &explanation.socket else {
        return Ok(());
    };
    let time = clock(socket.when.timestamp, zone);
    for sentence in future(explanation) {
        writeln!(writer, "{time} {sentence}").context("cannot write")?;
    }
    Ok(())
}

/// Prints that the socket has ended when no event reported its end.
pub fn gone(before: &Explanation, writer: &mut impl Write) -> Result<()> {
    let why = if before.outlook == Some(Outlook::KeepaliveOff) {
        "with SO_KEEPALIVE off the cause is not recorded"
    } else {
        "the cause was not seen"
    };
    writeln!(writer, "The socket has ended: {why}.").context("cannot write")
}

/// One of several matching sockets, by the names that `explain` accepts.
pub fn choice(socket: &ListedSocket) -> String {
    let cookie = socket.socket.cookie;
    format!(
        "{}-{}  {}  {}  netns {}  {}",
        socket.socket.local,
        socket.socket.peer,
        name(socket.socket.state),
        cookie.map_or_else(|| "sk:?".to_owned(), |cookie| format!("sk:{cookie}")),
        socket.socket.netns,
        owner(socket.process.as_ref()),
    )
}

fn heading(socket: &ListedSocket) -> String {
    format!(
        "{}  {} → {}  {}, network namespace {}{}{}",
        owner(socket.process.as_ref()),
        socket.socket.local,
        socket.socket.peer,
        name(socket.socket.state),
        socket.socket.netns,
        match socket.silence_ms {
            Some(silence) => format!(", last segment from the peer {} ago", millis(silence)),
            None => String::new(),
        },
        match socket.peer_probe_ms {
            Some(ago) => format!(", its last probe {} ago", millis(ago)),
            None => String::new(),
        }
    )
}

/// Which end was named: an address and port may be of either.
fn matched(end: MatchedEnd, socket: &ListedSocket) -> String {
    let (local, peer) = (&socket.socket.local, &socket.socket.peer);
    match end {
        MatchedEnd::Local => format!("The named end is its local end, {local}."),
        MatchedEnd::Peer => format!("The named end is its peer, {peer}."),
        MatchedEnd::Both => format!("Both its ends are named: {local} and {peer}."),
    }
}

fn how_set(socket: &ListedSocket) -> String {
    let Some(keepalive) = &socket.keepalive else {
        return match socket.socket.state {
            TcpState::TimeWait | TcpState::SynRecv => {
                "A socket in this state has no keepalive settings."
            }
            TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::Close
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Listen
            | TcpState::Closing
            | TcpState::NewSynRecv
            | TcpState::BoundInactive
            | TcpState::Unknown => {
                "Its keepalive settings are unknown: reading them needs root and, for sockets that \
                 no process holds, a kernel with BPF iterators."
            }
        }
        .to_owned();
    };
    settings(keepalive)
}

/// The settings, each with its origin.
pub fn settings(keepalive: &Keepalive) -> String {
    let switch = if keepalive.enabled { "on" } else { "off" };
    format!(
        "SO_KEEPALIVE is {switch}: TCP_KEEPIDLE {}, TCP_KEEPINTVL {}, TCP_KEEPCNT {}{}.",
        with_origin(&millis(keepalive.time_ms), keepalive.time_origin),
        with_origin(&millis(keepalive.interval_ms), keepalive.interval_origin),
        with_origin(&keepalive.probes.to_string(), keepalive.probes_origin),
        user_timeout(keepalive)
    )
}

/// Sysctls whose value on the host differs, and has no effect in this namespace.
fn elsewhere(socket: &ListedSocket, explanation: &Explanation) -> Option<String> {
    let keepalive = socket.keepalive?;
    let (here, host) = explanation.sysctl.zip(explanation.host_sysctl)?;
    let by_sysctl = |sysctl| match sysctl {
        Sysctl::TcpKeepaliveTime => keepalive.time_origin == Some(Origin::Sysctl),
        Sysctl::TcpKeepaliveIntvl => keepalive.interval_origin == Some(Origin::Sysctl),
        Sysctl::TcpKeepaliveProbes => keepalive.probes_origin == Some(Origin::Sysctl),
        Sysctl::TcpRetries2 => true,
    };
    let differences: Vec<String> = here
        .differences(&host)
        .into_iter()
        .filter(|(sysctl, ..)| by_sysctl(*sysctl))
        .map(|(sysctl, here, host)| {
            format!("{} is {here} here and {host} on the host", name(sysctl))
        })
        .collect();
    (!differences.is_empty()).then(|| {
        format!(
            "{}: the host's sysctls have no effect in this network namespace.",
            differences.join("; ")
        )
    })
}

fn past(run: LastRun) -> String {
    let ago = millis(run.ago_ms);
    match run.action {
        LastAction::ProbeSent => {
            format!("The timer last ran {ago} ago and sent a probe, which is unanswered.")
        }
        LastAction::ProbeAnswered => format!(
            "The timer last ran {ago} ago and sent a probe; a segment from the peer arrived at once."
        ),
        LastAction::Armed => format!(
            "No probe was sent in the last {ago}, since the timer was set or a segment from the \
             peer arrived; its deadline counts from then."
        ),
    }
}

/// What must happen before a probe is sent, and when the connection ends without an answer.
fn future(explanation: &Explanation) -> Vec<String> {
    let Some(socket) = &explanation.socket else {
        return Vec::new();
    };
    let why = explanation
        .outlook
        .map(|outlook| why(outlook, socket, explanation.plan.as_ref()));
    why.into_iter().chain(end(socket)).collect()
}

fn end(socket: &ListedSocket) -> Option<String> {
    let death = socket.death?;
    let retries2 = Some(socket.retries2.unwrap_or_default());
    // Known if the end is.
    let values = RuleValues::new(socket.keepalive.as_ref()?, retries2);
    let when = if death.is_estimate {
        format!("in about {}", millis(death.in_ms))
    } else {
        in_time(death.in_ms)
    };
    // `tcp_ack` clears `icsk_probes_out`.
    let again = if death.rule == Cause::WindowProbeTimeout {
        "; each answer starts the count again"
    } else {
        ""
    };
    Some(format!(
        "{} the connection ends {when}, by {}{again}.",
        unless(death.rule),
        rule(death.rule, values)
    ))
}

/// The armed timer is later than the settings allow: they were changed since (a sysctl: setting the option on
/// the socket arms it again).
fn armed_before(socket: &ListedSocket, plan: Option<&Plan>) -> Option<String> {
    let next = socket.next_probe?.earliest_ms?;
    let due = next.saturating_add(socket.silence_ms?);
    let planned = plan?.first_probe_ms.most;
    (socket.probes_out == 0 && due > planned).then(|| {
        format!(
            "The timer was armed before its settings changed: the next probe leaves {} of silence, not \
             {}; what follows holds from then on. Open connections keep the timer that they have; \
             setsockopt TCP_KEEPIDLE on the socket arms it again.",
            after(due),
            after(planned)
        )
    })
}

fn after(ms: u64) -> String {
    format!("after {}", millis(ms))
}

fn with_origin(value: &str, origin: Option<Origin>) -> String {
    match origin {
        Some(Origin::Socket) => format!("{value} (set on the socket)"),
        Some(Origin::Sysctl) => format!("{value} (this namespace's sysctl)"),
        None => value.to_owned(),
    }
}

fn user_timeout(keepalive: &Keepalive) -> String {
    match keepalive.user_timeout_ms {
        0 => String::new(),
        ms => format!(", TCP_USER_TIMEOUT {}", millis(ms)),
    }
}

fn in_time(ms: u64) -> String {
    match ms {
        0 => "now".to_owned(),
        ms => format!("in {}", millis(ms)),
    }
}

/// The timers other than keepalive.
fn timers(socket: &ListedSocket) -> Option<String> {
    let others: Vec<String> = socket
        .timers
        .iter()
        .filter(|timer| timer.kind != TimerKind::Keepalive)
        .map(|timer| {
            let retries = match timer.retries {
                0 => String::new(),
                retries => format!(", {retries} so far"),
            };
            let kind = name(timer.kind).replace('_', " ");
            format!("{kind} {}{retries}", in_time(timer.in_ms))
        })
        .collect();
    (!others.is_empty()).then(|| format!("Other timers: {}.", others.join("; ")))
}

#[cfg(test)]
mod tests;
