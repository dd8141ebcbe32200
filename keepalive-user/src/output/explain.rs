//! An explanation in plain sentences.

use std::io::Write;

use anyhow::{Context, Result};

use super::{
    json_line,
    words::{self, millis, owner, plural},
};
use crate::event::{
    Cause, DeadLetter, Explanation, Keepalive, ListedSocket, Origin, Outlook, Plan, Span, TimerKind,
};

/// One JSON object.
pub fn json(explanation: &Explanation, writer: &mut impl Write) -> Result<()> {
    json_line(explanation, writer)
}

/// Sentences, one a line.
pub fn text(explanation: &Explanation, writer: &mut impl Write) -> Result<()> {
    let mut lines = Vec::new();
    if let Some(socket) = &explanation.socket {
        lines.push(who(socket));
        lines.push(how_set(socket));
        if let Some(outlook) = explanation.outlook {
            lines.push(why(outlook, socket, explanation.plan.as_ref()));
        }
        lines.extend(timers(socket));
    }
    if let Some(plan) = &explanation.plan {
        let enabled = explanation
            .socket
            .as_ref()
            .and_then(|socket| socket.keepalive)
            .is_none_or(|keepalive| keepalive.enabled);
        lines.extend(planned(plan, enabled));
    }
    if let Some(filter) = &explanation.capture_filter {
        lines.push(format!(
            "A probe looks like any ACK in tcpdump: no data, sequence number one below what is \
             expected (shown with -vv). Capture: tcpdump -ni any -vv '{filter}'"
        ));
    }
    for line in lines {
        writeln!(writer, "{line}").context("cannot write")?;
    }
    Ok(())
}

/// A socket among others, with names that it can be asked for by.
pub fn choice(socket: &ListedSocket) -> String {
    let cookie = socket.socket.cookie;
    format!(
        "{}-{}  {}  {}  {}",
        socket.socket.local,
        socket.socket.peer,
        words::name(&socket.socket.state),
        cookie.map_or_else(|| "-".to_owned(), |cookie| format!("sk:{cookie}")),
        owner(socket.process.as_ref()),
    )
}

fn who(socket: &ListedSocket) -> String {
    format!(
        "{}  {} → {}  {}, network namespace {}{}",
        owner(socket.process.as_ref()),
        socket.socket.local,
        socket.socket.peer,
        words::name(&socket.socket.state),
        socket.socket.netns,
        match socket.silence_ms {
            Some(silence) => format!(", peer heard {} ago", millis(silence)),
            None => String::new(),
        }
    )
}

fn how_set(socket: &ListedSocket) -> String {
    let Some(keepalive) = &socket.keepalive else {
        return "How keepalive is set on it is not known: run as root.".to_owned();
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

/// The one sentence that was asked for.
fn why(outlook: Outlook, socket: &ListedSocket, plan: Option<&Plan>) -> String {
    let next = socket.next_probe;
    let timer = next.map_or_else(|| "later".to_owned(), |next| in_time(next.timer_ms));
    match outlook {
        Outlook::KeepaliveOff => {
            "No probe will ever be sent: nobody switched SO_KEEPALIVE on (HTTP keep-alive is another \
             thing, and does not). While it is idle nothing will notice that the peer is gone."
                .to_owned()
        }
        Outlook::NotConnected => {
            "Nothing is probed in this state; connections accepted from a listener inherit its \
             settings."
                .to_owned()
        }
        Outlook::DataInFlight => format!(
            "No probe while {} sent and not acknowledged: retransmission decides this connection's \
             fate, and keepalive only waits on ({}).",
            words::bytes(socket.send_queue),
            match next {
                Some(_) => format!("its timer looks again {timer}"),
                None => "its timer is hidden behind the retransmission's".to_owned(),
            }
        ),
        Outlook::ZeroWindow => format!(
            "No keepalive probe while the peer's window is closed: {} to be sent, and zero-window \
             probes ask for room instead ({} unanswered).",
            words::bytes(socket.send_queue),
            socket.probes_out
        ),
        Outlook::DataUnsent => format!(
            "No probe while {} to be sent; the timer looks again {timer}.",
            words::bytes(socket.send_queue)
        ),
        Outlook::FinWait2 => {
            "The timer that runs is not keepalive: no process holds this socket any more, and it \
             waits for the peer's FIN."
                .to_owned()
        }
        Outlook::Probing => {
            let of = match plan {
                Some(plan) if plan.rule == Cause::KeepaliveProbes => {
                    format!(" of {}", plan.probes.most)
                }
                _ => String::new(),
            };
            format!(
                "{}{of} unanswered; the next look is {timer}.",
                plural(socket.probes_out.into(), "probe")
            )
        }
        Outlook::NotIdle => match next {
            Some(next) => {
                let earliest = next.earliest_ms.unwrap_or(next.timer_ms);
                let lazy = if earliest > next.timer_ms {
                    format!(
                        " (the timer runs {timer}, finds that the peer was heard since it was set, \
                         and waits for the rest)"
                    )
                } else {
                    String::new()
                };
                format!(
                    "The next probe can leave {} at the earliest, if nothing is received until \
                     then{lazy}.",
                    in_time(earliest)
                )
            }
            None => "SO_KEEPALIVE is on, but its timer does not run.".to_owned(),
        },
        Outlook::Unknown => {
            "Whether it will be probed is not known either: see `keepalive doctor`.".to_owned()
        }
    }
}

fn in_time(ms: u64) -> String {
    match ms {
        0 => "now".to_owned(),
        ms => format!("in {}", millis(ms)),
    }
}

/// What runs beside keepalive.
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
            let kind = words::name(&timer.kind).replace('_', " ");
            format!("{kind} {}{retries}", in_time(timer.in_ms))
        })
        .collect();
    (!others.is_empty()).then(|| format!("Other timers: {}.", others.join("; ")))
}

fn planned(plan: &Plan, enabled: bool) -> Vec<String> {
    let settings = &plan.settings;
    let mut lines = if enabled { if_silent(plan) } else { Vec::new() };
    let timeout = millis(settings.user_timeout_ms);
    let stuck = &plan.unacknowledged_data;
    let rule = match stuck.rule {
        Cause::RetransmitUserTimeout => format!("TCP_USER_TIMEOUT {timeout}"),
        _ => format!("tcp_retries2 {}", settings.retries2),
    };
    lines.push(format!(
        "If data is not acknowledged keepalive does not run: dead {} after the first \
         retransmission, by {rule}.",
        span(stuck.after_ms)
    ));
    lines
}

/// What keepalive does if the peer falls silent, and which settings do not do what they seem to.
pub fn if_silent(plan: &Plan) -> Vec<String> {
    let settings = &plan.settings;
    let timeout = millis(settings.user_timeout_ms);
    let probes = if plan.probes.least == plan.probes.most {
        plural(plan.probes.most, "unanswered probe")
    } else {
        format!(
            "{} to {} unanswered probes",
            plan.probes.least, plan.probes.most
        )
    };
    let rule = match plan.rule {
        Cause::KeepaliveUserTimeout => format!("TCP_USER_TIMEOUT {timeout}"),
        _ => format!("TCP_KEEPCNT {}", settings.probes),
    };
    let mut lines = vec![
        format!(
            "A peer that falls silent gets its first probe after {}, then one every {}.",
            span(plan.first_probe_ms),
            millis(settings.interval_ms)
        ),
        format!(
            "It is taken for dead after {}: {probes}, by {rule}.",
            span(plan.dead_after_ms)
        ),
    ];
    for letter in &plan.dead_letters {
        lines.push(match letter {
            DeadLetter::ProbesIgnored => format!(
                "TCP_KEEPCNT {} is a dead letter: with TCP_USER_TIMEOUT set the kernel ignores it.",
                settings.probes
            ),
            DeadLetter::UserTimeoutBelowTime => format!(
                "TCP_USER_TIMEOUT {timeout} is not reached in time: an idle connection is looked at \
                 first after TCP_KEEPIDLE {}, and ended an interval later.",
                millis(settings.time_ms)
            ),
            DeadLetter::ProbesWrap => "The kernel counts unanswered probes in a byte: after 256 it \
                                       begins again."
                .to_owned(),
        });
    }
    lines
}

/// The least, and the most where that is worth telling.
fn span(span: Span) -> String {
    let (least, most) = (millis(span.least), millis(span.most));
    if least == most {
        least
    } else {
        format!("{least} (at most {most})")
    }
}

#[cfg(test)]
mod tests;
