//! The summary of all events. It is folded from events only, so that it agrees with the printed
//! lines, with filters and in replays, too.

use std::{cmp::Reverse, collections::BTreeMap, io::Write};

use anyhow::{Context, Result};
use rustc_hash::FxHashMap;

use super::words::{losses_text, owner};
use crate::core::{
    event::{Cause, End, Event, EventCounts, Meaning},
    format::{micros, millis, name, plural},
    ledger::History,
};

/// Rows kept; those with the highest [`weight`] stay.
const ROWS: usize = 4096;
/// Rows printed.
const SHOWN: usize = 20;

/// A row per socket.
#[derive(Default)]
pub struct Summary {
    sockets: FxHashMap<u64, History>,
}

impl Summary {
    pub fn add(&mut self, event: &Event) {
        let Some(about) = event.about() else { return };
        let id = about.socket.id;
        if self.sockets.len() >= 2 * ROWS && !self.sockets.contains_key(&id) {
            self.forget();
        }
        let history = self.sockets.entry(id);
        let history = history.or_insert_with(|| History::new(about));
        history.observe(about, event);
    }

    /// Drops the half with the lowest weight.
    fn forget(&mut self) {
        let mut ids: Vec<(u64, _)> = self
            .sockets
            .iter()
            .map(|(id, history)| (*id, weight(history)))
            .collect();
        ids.sort_by_key(|(_, weight)| Reverse(*weight));
        for (id, _) in ids.drain(ROWS..) {
            self.sockets.remove(&id);
        }
    }

    /// Writes the table at the end.
    pub fn table(&self, end: &End, writer: &mut impl Write) -> Result<()> {
        self.rows_to(end, writer)
            .and_then(|()| totals(end, writer))
            .context("cannot write")
    }

    fn rows_to(&self, end: &End, writer: &mut impl Write) -> std::io::Result<()> {
        let mut rows: Vec<&History> = self.sockets.values().collect();
        rows.sort_by_cached_key(|row| (Reverse(weight(row)), connection(row)));
        let all = end.sockets.max(rows.len() as u64);
        let more = all.saturating_sub(SHOWN as u64);
        rows.truncate(SHOWN);
        if rows.is_empty() {
            return writeln!(writer, "\nNo keepalive timer ran and nothing was armed.");
        }
        let header = [
            "OWNER",
            "CONNECTION",
            "TIMERS",
            "PROBES",
            "ANSWERED",
            "UNANSWERED",
            "WORST RTT",
            "OUTCOME",
        ];
        let mut cells: Vec<[String; 8]> = vec![header.map(str::to_owned)];
        cells.extend(rows.into_iter().map(columns));
        let width = |column: usize| {
            cells
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 8] = std::array::from_fn(width);
        writeln!(writer)?;
        for row in &cells {
            let [owner, connection, numbers @ .., outcome] = row;
            write!(writer, "{owner:0$}  {connection:1$}", widths[0], widths[1])?;
            for (number, width) in numbers.iter().zip(&widths[2..]) {
                write!(writer, "  {number:>width$}")?;
            }
            writeln!(writer, "  {outcome}")?;
        }
        if more > 0 {
            writeln!(writer, "… and {} more", plural(more, "socket"))?;
        }
        Ok(())
    }
}

/// The order of rows: timed out, reset or aborted, most unanswered probes, most timer runs.
fn weight(history: &History) -> (u8, u64, u64) {
    let end = match history.cause().map(Cause::meaning) {
        Some(Meaning::TimedOut) => 3,
        Some(Meaning::ResetOrAborted) => 2,
        None => 1,
        Some(Meaning::Orderly | Meaning::Unknown) => 0,
    };
    (end, history.unanswered(), history.timers)
}

fn connection(history: &History) -> String {
    format!("{} → {}", history.socket.local, history.socket.peer)
}

fn columns(history: &History) -> [String; 8] {
    [
        owner(history.process.as_ref()),
        connection(history),
        history.timers.to_string(),
        history.probes.to_string(),
        history.answers.to_string(),
        history.unanswered().to_string(),
        history.worst_rtt_us.map_or_else(|| "-".to_owned(), micros),
        history.cause().map_or("open", name).to_owned(),
    ]
}

/// Two lines: what happened, and what was lost.
fn totals(end: &End, writer: &mut impl Write) -> std::io::Result<()> {
    let list = |counts: &BTreeMap<String, u64>| {
        let parts: Vec<String> = counts
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        if parts.is_empty() {
            "none".to_owned()
        } else {
            parts.join(", ")
        }
    };
    let EventCounts {
        timer,
        window_probe,
        send_retry,
        answer,
        closed,
        ..
    } = end.events;
    let retries = match send_retry {
        0 => String::new(),
        count => format!(", {}", plural(count, "retried send")),
    };
    writeln!(
        writer,
        "\n{} in {}: {} ({}), {}, {}{}, {closed} closed ({})",
        plural(end.sockets, "socket"),
        millis(end.duration_ms),
        plural(timer, "timer run"),
        list(&end.decisions),
        plural(window_probe, "zero-window probe"),
        plural(answer, "answer"),
        retries,
        list(&end.causes),
    )?;
    match losses_text(end) {
        None => writeln!(writer, "Nothing was lost.")?,
        Some(text) => writeln!(writer, "Not everything was seen: {text}.")?,
    }
    let owner = end.lost.owner;
    if owner > 0 {
        writeln!(
            writer,
            "{} with an unresolved owner.",
            plural(owner, "event")
        )?;
    }
    Ok(())
}
