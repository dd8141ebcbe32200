//! One line of text per event, for readers who do not know the kernel.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::host;
use super::words::{
    certificate, clock_ms, lost_words, missed_words, moment, outage_words, owner, settings,
    unless_briefly,
};
use crate::core::{
    event::{
        About, Answer, Armed, ArmedCause, Death, Decision, Errno, Event, Lost, LostWhere, Meaning,
        Missed, MissedWhere, Outage, Precision, ProbeKind, Rule, SendRetry, SocketEvent, Start,
        TimerRun, WindowProbe,
    },
    format::{escape, micros, millis, plural},
};

/// Writes the line of one event. `end` has no line: the summary reports it.
pub fn line(event: &Event, colour: bool, zone: &TimeZone, writer: &mut impl Write) -> Result<()> {
    let head = match event {
        Event::Lost(_)
        | Event::Missed(_)
        | Event::Suspend(_)
        | Event::ClockStep(_)
        | Event::Sysctl(_) => {
            format!("{}  ", clock_ms(event.when().timestamp, zone))
        }
        Event::Finding(finding) => {
            return super::audit::text(finding, colour, writer).context("cannot write");
        }
        Event::Start(_)
        | Event::Armed(_)
        | Event::Timer(_)
        | Event::WindowProbe(_)
        | Event::SendRetry(_)
        | Event::Answer(_)
        | Event::Closed(_)
        | Event::End(_) => event.about().map_or(String::new(), |it| head(it, zone)),
    };
    let Some((text, style)) = sentence(event, zone) else {
        return Ok(());
    };
    if colour {
        writeln!(writer, "{head}{style}{text}{style:#}")
    } else {
        writeln!(writer, "{head}{text}")
    }
    .context("cannot write")
}

/// What happened, without the time and the socket. Findings have their own lines, `end` has none.
pub fn sentence(event: &Event, zone: &TimeZone) -> Option<(String, Style)> {
    Some(match event {
        Event::Start(start) => (started(start), Style::new().dimmed()),
        Event::Armed(event) => (armed(event), plain(AnsiColor::Cyan)),
        Event::Timer(event) => (timer(event, zone), timer_style(&event.what)),
        Event::WindowProbe(event) => (
            window_probe(&event.what, event.when.timestamp, zone),
            plain(AnsiColor::Yellow),
        ),
        Event::SendRetry(event) => (
            send_retry(&event.what, event.when.timestamp, zone),
            plain(AnsiColor::Yellow),
        ),
        Event::Answer(event) => (answer(&event.what), plain(AnsiColor::Green)),
        Event::Closed(event) => {
            let heard = heard(event.when.timestamp, event.what.idle_ms, zone);
            let text = certificate(&event.what, &event.keepalive, &heard);
            (text, closed_style(event.what.cause.meaning()))
        }
        Event::Lost(lost) => (lost_text(lost), plain(AnsiColor::Red).bold()),
        Event::Missed(missed) => (missed_text(missed, zone), plain(AnsiColor::Red).bold()),
        Event::Suspend(suspend) => (host::suspended(suspend), plain(AnsiColor::Cyan)),
        Event::ClockStep(step) => (host::stepped(step), plain(AnsiColor::Cyan)),
        Event::Sysctl(change) => (host::sysctl(change, zone), plain(AnsiColor::Cyan)),
        Event::Finding(_) | Event::End(_) => return None,
    })
}

fn lost_text(lost: &Lost) -> String {
    let (noun, why) = lost_words(lost.place);
    let more = match lost.place {
        LostWhere::Ring => ": raise --ring-bytes",
        LostWhere::Recording => ": raise --record-rate",
        LostWhere::Recursion => ", the program was already running on that CPU",
        LostWhere::Decode
        | LostWhere::Tracker
        | LostWhere::Scratch
        | LostWhere::Unreadable
        | LostWhere::Output
        | LostWhere::Filter => "",
    };
    let probes = match lost.probes {
        0 => String::new(),
        probes => format!(" ({})", plural(probes, "keepalive probe")),
    };
    format!("{} {noun}s {why}{more}{probes}", lost.count)
}

fn missed_text(missed: &Missed, zone: &TimeZone) -> String {
    let (noun, how) = missed_words(missed.place);
    let what = plural(missed.count, noun);
    match missed.place {
        MissedWhere::Unread => format!("{what} {how}: what was missed there is unknown"),
        MissedWhere::Probe | MissedWhere::WindowProbe | MissedWhere::Timer | MissedWhere::Close => {
            let since = clock_ms(missed.since.timestamp, zone);
            format!("{what} {how} since {since}: the kernel acted and ran no program")
        }
    }
}

fn plain(colour: AnsiColor) -> Style {
    Style::new().fg_color(Some(colour.into()))
}

/// Time, owner, connection.
fn head(about: About<'_>, zone: &TimeZone) -> String {
    format!(
        "{} {} {} → {}  ",
        clock_ms(about.when.timestamp, zone),
        owner(about.process),
        about.socket.local,
        about.socket.peer,
    )
}

fn started(start: &Start) -> String {
    let refused: Vec<String> = start
        .refused
        .iter()
        .map(|refused| format!("; {} refused: {}", refused.backend.name(), refused.reason))
        .collect();
    let filters: Vec<String> = start
        .filters
        .iter()
        .map(|(name, value)| format!(", {name} {value}"))
        .collect();
    escape(&format!(
        "Tracing TCP keepalive on Linux {}, {} backend{}{}. Ctrl-C ends.",
        start.kernel,
        start.backend.name(),
        filters.concat(),
        refused.concat(),
    ))
    .into_owned()
}

fn armed(event: &SocketEvent<Armed>) -> String {
    let settings = settings(&event.keepalive);
    let next = event
        .what
        .next_ms
        .map_or(String::new(), |ms| format!(", timer in {}", millis(ms)));
    match (event.what.cause, event.keepalive.enabled) {
        (ArmedCause::Setsockopt, false) => "keepalive switched off".to_owned(),
        (ArmedCause::Setsockopt, true) => format!("keepalive set: {settings}{next}"),
        (ArmedCause::Connect, _) => format!("connected with keepalive: {settings}{next}"),
        (ArmedCause::Accept, _) => format!("accepted with keepalive: {settings}{next}"),
        (ArmedCause::Seen, _) => format!("has keepalive: {settings}"),
    }
}

fn timer(event: &SocketEvent<TimerRun>, zone: &TimeZone) -> String {
    let run = &event.what;
    let silent = run
        .idle_ms
        .map_or("no segment from the peer yet".to_owned(), |ms| {
            format!("no segment from the peer for {}", millis(ms))
        });
    let next = run.next_ms.map_or("not armed again".to_owned(), |ms| {
        format!("next in {}", millis(ms))
    });
    let time = millis(event.keepalive.time_ms);
    match run.decision {
        Decision::ProbeSent => {
            let number = match (run.attempt, run.attempts) {
                (Some(attempt), Some(attempts)) => format!("probe {attempt}/{attempts}"),
                (attempt, _) => format!("probe {}", attempt.unwrap_or_default()),
            };
            let sent = sent(run.sent, run.send_error.as_ref(), run.outage);
            format!(
                "{number} {sent}, {silent}, {next}{}",
                dead(run.death.as_ref(), event.when.timestamp, zone)
            )
        }
        Decision::ProbeFailed => {
            format!("probe dropped on this host, not counted, {silent}, {next}")
        }
        // `packets_out` was read before `tcp_keepalive_timer` took the socket lock.
        Decision::DataInFlight if run.packets_out == 0 => {
            format!("no probe: data was just sent, retransmission decides; {next}")
        }
        Decision::DataInFlight => format!(
            "no probe: {} unacknowledged, retransmission decides; {next}",
            plural(run.packets_out.into(), "segment")
        ),
        Decision::DataUnsent => {
            format!(
                "no probe: {} waiting to be sent; {next}",
                plural(run.unsent_bytes.into(), "byte")
            )
        }
        Decision::NotIdle => format!("no probe: {silent}, less than idle {time}; {next}"),
        Decision::SocketBusy => format!("no probe: the socket was in use; {next}"),
        Decision::Stopped => {
            "timer stopped: keepalive is off or the connection is closed".to_owned()
        }
        Decision::FinWait2 => "not keepalive: the FIN_WAIT2 timer of a closed socket".to_owned(),
        Decision::Killed => format!("timer ended the connection, {silent}"),
    }
}

fn window_probe(probe: &WindowProbe, now: Timestamp, zone: &TimeZone) -> String {
    let sent = sent(probe.sent, probe.send_error.as_ref(), probe.outage);
    let next = probe
        .next_ms
        .map_or("no next".to_owned(), |ms| format!("next in {}", millis(ms)));
    format!(
        "zero-window probe {} {sent}, {} waiting, {next}{}",
        probe.probes_out.after,
        plural(probe.unsent_bytes.into(), "byte"),
        dead(probe.death.as_ref(), now, zone)
    )
}

/// The result of the send of a probe that the kernel counted.
fn sent(sent: Option<bool>, error: Option<&Errno>, outage: Option<Outage>) -> String {
    match (outage.map(outage_words), error, sent) {
        (Some(why), _, _) if outage.is_some_and(Outage::is_certain) => {
            format!("counted, but not sent: {why}")
        }
        (Some(why), _, _) => format!("made, but {why}"),
        (None, Some(error), _) => format!("counted, but not sent ({error})"),
        (None, None, Some(false)) => "counted, but not sent".to_owned(),
        (None, None, Some(true)) => "sent".to_owned(),
        // The kernel built it; whether it left this host is not observed.
        (None, None, None) => "made".to_owned(),
    }
}

fn send_retry(retry: &SendRetry, now: Timestamp, zone: &TimeZone) -> String {
    let bytes = plural(retry.unsent_bytes.into(), "byte");
    let Some(next) = retry.next_ms.map(millis) else {
        return format!("{bytes} that this host had not sent: sent now");
    };
    let why = match (retry.outage.map(outage_words), &retry.send_error) {
        (Some(why), _) => format!(" ({why})"),
        (None, Some(error)) => format!(" ({error})"),
        (None, None) => String::new(),
    };
    let end = dead(retry.death.as_ref(), now, zone);
    format!(
        "{bytes} cannot be sent from this host{why}, although the peer's window is open; retried {}, next in \
         {next}{end}",
        plural(retry.retries.after.into(), "time")
    )
}

fn answer(answer: &Answer) -> String {
    let probe = match answer.probe {
        ProbeKind::Keepalive => "probe",
        ProbeKind::Window => "zero-window probe",
    };
    let rtt = match (answer.rtt_us, answer.precision) {
        (Some(rtt), Some(Precision::Exact)) => format!(" after {}", micros(rtt)),
        // A tick of the slowest kernels.
        (Some(..10_000), _) => " within 10 ms".to_owned(),
        (Some(rtt), _) => format!(" after about {}", micros(rtt)),
        (None, _) => String::new(),
    };
    match answer.earlier {
        0 => format!("{probe} {} answered{rtt}", answer.attempt),
        earlier => format!(
            "one of {probe}s {} to {} answered",
            answer.attempt.saturating_sub(earlier).max(1),
            answer.attempt
        ),
    }
}

/// When the connection ends, unless what would prevent that.
fn dead(death: Option<&Death>, now: Timestamp, zone: &TimeZone) -> String {
    death.map_or(String::new(), |death| {
        let rule = match death.rule.rule() {
            Some(Rule::UserTimeout) => " (TCP_USER_TIMEOUT)",
            Some(Rule::KeepCount | Rule::Retries2 | Rule::SynRetries | Rule::OrphanRetries)
            | None => "",
        };
        format!(
            ", dead at {} {}{rule}",
            moment(death.at, now, zone),
            unless_briefly(death.rule)
        )
    })
}

/// When the last segment from the peer arrived.
fn heard(now: Timestamp, idle_ms: Option<u64>, zone: &TimeZone) -> String {
    let idle = idle_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .map(SignedDuration::from_millis);
    idle.and_then(|idle| now.checked_sub(idle).ok())
        .map_or("never".to_owned(), |then| moment(then, now, zone))
}

fn timer_style(run: &TimerRun) -> Style {
    match run.decision {
        // The first probe of an idle connection is normal.
        Decision::ProbeSent if run.attempt == Some(1) => Style::new(),
        Decision::ProbeSent | Decision::ProbeFailed => plain(AnsiColor::Yellow),
        Decision::Killed => plain(AnsiColor::Red),
        Decision::DataInFlight
        | Decision::DataUnsent
        | Decision::NotIdle
        | Decision::SocketBusy
        | Decision::Stopped
        | Decision::FinWait2 => Style::new().dimmed(),
    }
}

fn closed_style(meaning: Meaning) -> Style {
    match meaning {
        Meaning::TimedOut => plain(AnsiColor::Red).bold(),
        Meaning::ResetOrAborted => plain(AnsiColor::Yellow),
        Meaning::Orderly | Meaning::Unknown => Style::new().dimmed(),
    }
}
