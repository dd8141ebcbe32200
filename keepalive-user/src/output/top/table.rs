//! The table: a line per socket, in columns that fit the width.

use std::{collections::VecDeque, ops::RangeInclusive};

use ratatui::{
    buffer::Buffer,
    layout::{Position, Rect},
    style::Style,
};

use super::{row::Row, theme::Theme};
use crate::{
    core::{
        event::ProbeKind,
        format::{Brief, micros},
        ledger::ProbeResult,
    },
    output::words::owner,
};

/// The value that a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Owner,
    LocalPort,
    Local,
    Peer,
    Next,
    Dies,
    Probes,
    Silent,
    Last,
    Results,
    RoundTrip,
}

struct Column {
    show: Show,
    title: &'static str,
    least: u16,
    most: u16,
    /// The widths of screens that have this column.
    screens: RangeInclusive<u16>,
}

const ANY: RangeInclusive<u16> = 0..=u16::MAX;
/// The width from which the local address fits.
const WIDE: u16 = 104;

/// The columns: those for 80 cells, and those for wider screens.
static COLUMNS: [Column; 11] = [
    column(Show::Owner, "OWNER", 12, 32, ANY),
    column(Show::LocalPort, "PORT", 5, 5, 0..=WIDE - 1),
    column(Show::Local, "LOCAL", 21, 47, WIDE..=u16::MAX),
    column(Show::Peer, "PEER", 20, 47, ANY),
    column(Show::Next, "NEXT", 6, 6, ANY),
    column(Show::Dies, "DEAD IN", 7, 7, 112..=u16::MAX),
    column(Show::Probes, "PROBES", 8, 15, ANY),
    column(Show::Silent, "SILENT", 6, 6, ANY),
    column(Show::Last, "LAST", 12, 22, ANY),
    column(Show::Results, "RTT", 4, 16, ANY),
    column(Show::RoundTrip, "LATEST", 7, 7, 120..=u16::MAX),
];

const fn column(
    show: Show,
    title: &'static str,
    least: u16,
    most: u16,
    screens: RangeInclusive<u16>,
) -> Column {
    Column {
        show,
        title,
        least,
        most,
        screens,
    }
}

/// The columns of a screen of this width, and the width of each.
fn layout(width: u16) -> Vec<(&'static Column, u16)> {
    let shown = COLUMNS
        .iter()
        .filter(|column| column.screens.contains(&width));
    let mut columns: Vec<_> = shown.map(|column| (column, column.least)).collect();
    let used: u16 = columns.iter().map(|(_, width)| width + 1).sum();
    let mut left = (width + 1).saturating_sub(used);
    // Gives one cell to each column in turn, until all have their maximum.
    while left > 0 {
        let before = left;
        for (column, width) in &mut columns {
            if *width < column.most && left > 0 {
                *width += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    columns
}

/// A text and its style.
type Cell = (String, Style);

/// Draws the titles and the rows; `cursor` is the highlighted row.
pub fn draw(rows: &[&Row], cursor: usize, now: u64, theme: Theme, area: Rect, buffer: &mut Buffer) {
    if area.is_empty() {
        return;
    }
    let columns = layout(area.width);
    let mut x = area.x;
    for (column, width) in &columns {
        let title = (column.title.to_owned(), theme.title());
        put(buffer, (x, area.y), *width, column.show, title);
        x += width + 1;
    }
    let lines = (area.y + 1..area.bottom()).zip(rows).enumerate();
    for (index, (y, row)) in lines {
        let mut x = area.x;
        for (column, width) in &columns {
            let cell = cell(row, column.show, *width, now, theme);
            put(buffer, (x, y), *width, column.show, cell);
            x += width + 1;
        }
        if cursor == index {
            buffer.set_style(Rect::new(area.x, y, area.width, 1), theme.cursor());
        }
    }
}

/// Writes a cell: numbers right-aligned, the rest left-aligned, a long text without its middle.
fn put(buffer: &mut Buffer, (x, y): (u16, u16), width: u16, show: Show, (text, style): Cell) {
    let room = buffer.area.right().saturating_sub(x).min(width);
    if room == 0 || !buffer.area.contains(Position { x, y }) {
        return;
    }
    let text = shortened(&text, width.into());
    let used = u16::try_from(text.chars().count()).unwrap_or(width);
    let right = matches!(
        show,
        Show::LocalPort | Show::Next | Show::Dies | Show::Probes | Show::Silent | Show::RoundTrip
    );
    let indent = if right { width.saturating_sub(used) } else { 0 };
    buffer.set_stringn(
        x + indent,
        y,
        text,
        room.saturating_sub(indent).into(),
        style,
    );
}

/// The text without its middle if it is too long: its end has the port or the process id.
pub fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let tail = width.saturating_sub(1) * 3 / 5;
    let head = width.saturating_sub(1) - tail;
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

fn cell(row: &Row, show: Show, width: u16, now: u64, theme: Theme) -> Cell {
    let (mood, history) = (theme.mood(row), &row.history);
    match show {
        Show::Owner => (owner(history.process.as_ref()), Style::new()),
        Show::LocalPort => (history.socket.local.port.to_string(), Style::new()),
        Show::Local => (history.socket.local.to_string(), Style::new()),
        Show::Peer => (history.socket.peer.to_string(), Style::new()),
        Show::Next => (next(row, now), mood),
        Show::Dies => {
            let left = history.death.map(|(at, _)| countdown(at, now));
            (left.unwrap_or_else(|| "-".to_owned()), mood)
        }
        Show::Probes => (progress(row, now, width.into()), mood),
        Show::Silent => {
            let silence = history.silence_ms(now).map(|ms| Brief::of(ms).to_string());
            (silence.unwrap_or_else(|| "-".to_owned()), Style::new())
        }
        Show::Last => (row.last().to_owned(), mood),
        Show::Results => {
            let style = match history.results.back() {
                Some(ProbeResult::Unanswered) => mood,
                Some(ProbeResult::Answered(_) | ProbeResult::Unresolved) | None => theme.good(),
            };
            (spark(&history.results, width.into()), style)
        }
        Show::RoundTrip => {
            let rtt = history.latest_rtt_us();
            (rtt.map_or_else(|| "-".to_owned(), micros), Style::new())
        }
    }
}

fn next(row: &Row, now: u64) -> String {
    match row.history.timer {
        _ if row.history.end.is_some() => "ended".to_owned(),
        None => "-".to_owned(),
        Some(timer) => countdown(timer.due, now),
    }
}

/// The time until a deadline; `due` while the timer wheel may still be late.
fn countdown(then: u64, now: u64) -> String {
    match then.saturating_sub(now) / 1_000_000 {
        0 => "due".to_owned(),
        ms => Brief::of(ms).to_string(),
    }
}

/// `███░░ 3/5`: unanswered probes, of the number that ends the connection.
fn progress(row: &Row, now: u64, width: usize) -> String {
    let history = &row.history;
    let (text, done, all) = match history.probe {
        Some(probe) => match (probe.kind, probe.of) {
            (ProbeKind::Window, _) => return format!("window {}", probe.attempt),
            (_, Some(of)) => (
                format!("{}/{of}", probe.attempt),
                u64::from(probe.attempt),
                u64::from(of),
            ),
            // With TCP_USER_TIMEOUT set the kernel ignores the count.
            (_, None) => (
                format!("{} ut", probe.attempt),
                history.silence_ms(now).unwrap_or_default(),
                history.keepalive.user_timeout_ms,
            ),
        },
        None if history.end.is_some() => return String::new(),
        None if history.keepalive.user_timeout_ms > 0 => ("0 ut".to_owned(), 0, 1),
        None => (format!("0/{}", history.keepalive.probes), 0, 1),
    };
    let room = width.saturating_sub(text.chars().count().max(4) + 1);
    format!("{} {text:>4}", bar(done, all, room))
}

/// A bar with a resolution of an eighth of a cell.
fn bar(done: u64, all: u64, width: usize) -> String {
    const PARTS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = done.min(all) * width as u64 * 8 / all.max(1);
    let (full, part) = (eighths as usize / 8, eighths as usize % 8);
    let mut bar = "█".repeat(full);
    if part > 0 {
        bar.push(PARTS[part]);
    }
    let used = full + usize::from(part > 0);
    bar + &"░".repeat(width.saturating_sub(used))
}

/// The last probes: higher bars are slower, `·` is answered at an unknown time, `×` is not answered,
/// `?` answered late or lost.
fn spark(results: &VecDeque<ProbeResult>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = || results.iter().skip(results.len().saturating_sub(width));
    let slowest = shown()
        .filter_map(|result| match result {
            ProbeResult::Answered(rtt) => *rtt,
            ProbeResult::Unanswered | ProbeResult::Unresolved => None,
        })
        .max()
        .unwrap_or(0);
    shown()
        .map(|result| match result {
            ProbeResult::Unanswered => '×',
            ProbeResult::Unresolved => '?',
            ProbeResult::Answered(None) => '·',
            ProbeResult::Answered(Some(rtt)) => {
                let level = rtt.saturating_mul(7) / slowest.max(1);
                BARS[usize::try_from(level).unwrap_or(7).min(7)]
            }
        })
        .collect()
}
