//! One socket explained: its identity, its keepalive settings, its current state, what the timer
//! does next, and its last events.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};

use super::{row::Row, theme::Theme};
use crate::{
    core::{
        arithmetic,
        event::{Decision, Event, Keepalive, PlannedSettings, ProbeKind, When},
        format::{escape, millis, name},
        ledger::{History, Last, Probe},
    },
    output::{
        explain,
        pretty::sentence,
        words::{RuleValues, clock_ms, moment, owner, rule},
    },
};

/// From this height on, sections are separated by empty lines.
const ROOMY: u16 = 30;

/// Draws the lines from `scroll` on; returns `scroll`, limited to the number of lines.
pub fn draw(lines: Vec<Line<'_>>, scroll: u16, frame: &mut Frame<'_>, area: Rect) -> u16 {
    let width = usize::from(area.width.max(1));
    // Wrapping at words may need a line or two more than this.
    let height: usize = lines
        .iter()
        .map(|line| line.width().div_ceil(width).max(1))
        .sum();
    let most = u16::try_from(height).unwrap_or(u16::MAX).saturating_sub(1);
    let scroll = scroll.min(most);
    let text = Paragraph::new(lines)
        .wrap(Wrap { trim: false })
        .scroll((scroll, 0));
    frame.render_widget(text, area);
    scroll
}

/// The explanation; without empty lines on a low screen.
pub fn lines(
    row: &Row,
    now: When,
    theme: Theme,
    zone: &TimeZone,
    height: u16,
) -> Vec<Line<'static>> {
    let gap = (height >= ROOMY).then(Line::default);
    let mut now_lines: Vec<_> = situation(&row.history, now, zone)
        .into_iter()
        .map(Line::raw)
        .collect();
    now_lines
        .extend(prospect(&row.history, now, zone).map(|text| Line::styled(text, theme.mood(row))));
    let settings = settings(&row.history.keepalive)
        .into_iter()
        .map(Line::raw)
        .collect();
    let newest_first = row.events.iter().rev();
    let happened = newest_first.filter_map(|(when, event)| line(*when, event, theme, zone));
    let mut lines = identity(&row.history, theme);
    for (title, text) in [
        ("NOW", now_lines),
        ("SETTINGS", settings),
        ("WHAT HAPPENED", happened.collect()),
    ] {
        lines.extend(gap.clone());
        lines.push(Line::styled(title, theme.title()));
        lines.extend(text);
    }
    lines
}

fn identity(history: &History, theme: Theme) -> Vec<Line<'static>> {
    let socket = &history.socket;
    let mut rest = format!("{}, network namespace {}", name(socket.state), socket.netns);
    if let Some(cookie) = socket.cookie {
        rest += &format!(", sk:{cookie}");
    }
    if let Some(path) = history
        .cgroup
        .as_ref()
        .and_then(|cgroup| cgroup.path.as_deref())
    {
        rest += &format!(", cgroup {}", escape(path));
    }
    if let Some(container) = &history.container_id {
        rest += &format!(", container {}", escape(container));
    }
    vec![
        Line::styled(
            format!(
                "{}  {} → {}",
                owner(history.process.as_ref()),
                socket.local,
                socket.peer
            ),
            theme.head(),
        ),
        Line::raw(rest),
    ]
}

fn settings(keepalive: &Keepalive) -> Vec<String> {
    let mut lines = vec![explain::settings(keepalive)];
    if keepalive.enabled {
        let planned = PlannedSettings {
            time_ms: keepalive.time_ms,
            interval_ms: keepalive.interval_ms,
            probes: keepalive.probes,
            user_timeout_ms: keepalive.user_timeout_ms,
            // Events do not have these, and they have no effect on a silent peer.
            retries2: 0,
            rto_max_ms: 0,
        };
        lines.extend(explain::if_silent(&arithmetic::plan(planned, None)));
    }
    lines
}

/// The current state, and what the timer does next.
fn situation(history: &History, now: When, zone: &TimeZone) -> Vec<String> {
    if history.end.is_some() {
        return vec!["The socket has ended.".to_owned()];
    }
    let silent = match history.silence_ms(now.monotonic_ns) {
        Some(ms) => format!(
            "the last recorded segment from the peer is {} old",
            millis(ms)
        ),
        None => "no segment from the peer yet".to_owned(),
    };
    let mut lines = vec![match history.probe {
        Some(probe) => format!("{}; {silent}.", out(probe)),
        None => format!("No probe is out; {silent}."),
    }];
    let Some(timer) = history.timer else {
        lines.push("The timer does not run.".to_owned());
        return lines;
    };
    let left = timer.due.saturating_sub(now.monotonic_ns) / 1_000_000;
    let when = if left == 0 {
        "is due".to_owned()
    } else {
        format!("runs in {} ({})", millis(left), at(now, left, zone))
    };
    lines.push(format!("The timer {when}: {}.", then(history)));
    lines
}

fn out(probe: Probe) -> String {
    let kind = match probe.kind {
        ProbeKind::Keepalive => "Probe",
        ProbeKind::Window => "The peer's window is closed; zero-window probe",
    };
    let of = probe.of.map_or(String::new(), |of| format!(" of {of}"));
    let before = match probe.attempt {
        0 | 1 => "an answer is reported when the timer runs",
        2 => "the one before it was not answered",
        _ => "the ones before it were not answered",
    };
    format!("{kind} {}{of} is out, {before}", probe.attempt)
}

/// What the timer's next run does.
fn then(history: &History) -> String {
    let keepalive = &history.keepalive;
    match history.probe {
        Some(Probe {
            kind: ProbeKind::Window,
            attempt,
            ..
        }) => {
            format!(
                "it sends zero-window probe {}, unless the window opens",
                attempt + 1
            )
        }
        Some(Probe {
            attempt,
            of: Some(of),
            ..
        }) if attempt >= of => {
            "it ends the connection, unless a segment from the peer arrives".to_owned()
        }
        Some(Probe { attempt, .. }) => {
            format!(
                "it sends probe {}, unless a segment from the peer arrives",
                attempt + 1
            )
        }
        None => after(history.last).map_or_else(
            || {
                format!(
                    "it sends the first probe, if no segment from the peer arrived for {}",
                    millis(keepalive.time_ms)
                )
            },
            str::to_owned,
        ),
    }
}

/// What the timer's next run does after a run that sent no probe for a reason that lasts.
fn after(last: Option<Last>) -> Option<&'static str> {
    let Some(Last::Timer(decision)) = last else {
        return None;
    };
    match decision {
        Decision::DataInFlight => Some("until then retransmission decides"),
        Decision::DataUnsent => Some("until then data waits to be sent, and no probe is sent"),
        Decision::FinWait2 => Some("it ends the closed socket, which is not keepalive"),
        Decision::ProbeSent
        | Decision::ProbeFailed
        | Decision::NotIdle
        | Decision::SocketBusy
        | Decision::Stopped
        | Decision::Killed => None,
    }
}

/// When the connection ends, and by which rule.
fn prospect(history: &History, now: When, zone: &TimeZone) -> Option<String> {
    let (due, death) = history.death?;
    let left = due.saturating_sub(now.monotonic_ns) / 1_000_000;
    let rule = rule(death.rule, RuleValues::new(&history.keepalive, None));
    let when = if left == 0 {
        "Dead when the timer runs".to_owned()
    } else {
        let at = moment(death.at, now.timestamp, zone);
        format!("Dead in {}, at {at}", millis(left))
    };
    Some(format!("{when}, unless answered: by {rule}."))
}

fn at(now: When, left_ms: u64, zone: &TimeZone) -> String {
    let left = SignedDuration::from_millis(i64::try_from(left_ms).unwrap_or(i64::MAX));
    let then = now.timestamp.checked_add(left).unwrap_or(Timestamp::MAX);
    moment(then, now.timestamp, zone)
}

fn line(when: When, event: &Event, theme: Theme, zone: &TimeZone) -> Option<Line<'static>> {
    let (text, style) = sentence(event, zone)?;
    Some(Line::from(vec![
        Span::styled(
            format!("{}  ", clock_ms(when.timestamp, zone)),
            theme.faint(),
        ),
        Span::styled(text, theme.sentence(style)),
    ]))
}
