//! The summary: what all events amount to. Folded from events alone, so that it agrees with
//! what was printed, filters and replays included.

use std::{cmp::Reverse, collections::BTreeMap, io::Write};

use anyhow::{Context, Result};
use rustc_hash::FxHashMap;

use super::words::{losses_text, owner};
use crate::core::{
    event::{Cause, End, Event, EventCounts, SocketEvent},
    words::{micros, millis, name, plural},
};

/// Rows kept; the busiest and the dead ones stay.
const ROWS: usize = 4096;
/// Rows printed.
const SHOWN: usize = 20;

/// Counts, and a row per socket.
#[derive(Default)]
pub struct Summary {
    rows: FxHashMap<u64, Row>,
}

/// What one socket did.
#[derive(Clone, Debug, Default)]
struct Row {
    owner: String,
    connection: String,
    timers: u64,
    probes: u64,
    answers: u64,
    /// A probe is out, and may still be answered.
    waiting: bool,
    worst_rtt_us: Option<u64>,
    outcome: Option<Cause>,
}

impl Summary {
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Armed(event) => {
                self.row(event);
            }
            Event::Timer(event) => {
                let row = self.row(event);
                row.timers += 1;
                row.probes += u64::from(event.what.attempt.is_some());
                row.waiting |= event.what.attempt.is_some();
            }
            Event::WindowProbe(event) => {
                let row = self.row(event);
                row.probes += 1;
                row.waiting = true;
            }
            Event::Answer(event) => {
                let row = self.row(event);
                row.answers += 1;
                row.waiting = false;
                row.worst_rtt_us = row.worst_rtt_us.max(event.what.rtt_us);
            }
            Event::Closed(event) => self.row(event).outcome = Some(event.what.cause),
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::End(_) => {}
        }
    }

    fn row<T>(&mut self, event: &SocketEvent<T>) -> &mut Row {
        if self.rows.len() >= 2 * ROWS {
            self.forget();
        }
        let row = self.rows.entry(event.socket.id).or_default();
        if row.connection.is_empty() {
            row.connection = format!("{} → {}", event.socket.local, event.socket.peer);
        }
        if event.process.is_some() || row.owner.is_empty() {
            row.owner = owner(event.process.as_ref());
        }
        row
    }

    /// Drops the least telling half.
    fn forget(&mut self) {
        let mut ids: Vec<(u64, _)> = self
            .rows
            .iter()
            .map(|(id, row)| (*id, row.weight()))
            .collect();
        ids.sort_by_key(|(_, weight)| Reverse(*weight));
        for (id, _) in ids.drain(ROWS..) {
            self.rows.remove(&id);
        }
    }

    /// The table at the end.
    pub fn table(&self, end: &End, writer: &mut impl Write) -> Result<()> {
        self.rows_to(end, writer)
            .and_then(|()| totals(end, writer))
            .context("cannot write")
    }

    fn rows_to(&self, end: &End, writer: &mut impl Write) -> std::io::Result<()> {
        let mut rows: Vec<&Row> = self.rows.values().collect();
        rows.sort_by(|a, b| {
            b.weight()
                .cmp(&a.weight())
                .then_with(|| a.connection.cmp(&b.connection))
        });
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
            "LOST",
            "WORST RTT",
            "OUTCOME",
        ];
        let mut cells: Vec<[String; 8]> = vec![header.map(str::to_owned)];
        cells.extend(rows.into_iter().map(Row::cells));
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

impl Row {
    /// What is worth seeing first: the killed, then the unanswered, then the busy.
    fn weight(&self) -> (u8, u64, u64) {
        let killed = match self.outcome {
            None => 1,
            Some(Cause::PeerFin | Cause::LocalClose | Cause::Unknown) => 0,
            Some(Cause::PeerReset | Cause::LocalAbort) => 2,
            Some(_) => 3,
        };
        (killed, self.lost(), self.timers)
    }

    fn cells(&self) -> [String; 8] {
        [
            self.owner.clone(),
            self.connection.clone(),
            self.timers.to_string(),
            self.probes.to_string(),
            self.answers.to_string(),
            self.lost().to_string(),
            self.worst_rtt_us.map_or_else(|| "-".to_owned(), micros),
            self.outcome
                .map_or_else(|| "open".to_owned(), |cause| name(&cause)),
        ]
    }

    /// Probes without an answer, but for the one that an open socket still waits for.
    fn lost(&self) -> u64 {
        let waiting = u64::from(self.waiting && self.outcome.is_none());
        self.probes.saturating_sub(self.answers + waiting)
    }
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
        answer,
        closed,
        ..
    } = end.events;
    writeln!(
        writer,
        "\n{} in {}: {} ({}), {}, {}, {closed} closed ({})",
        plural(end.sockets, "socket"),
        millis(end.duration_ms),
        plural(timer, "timer run"),
        list(&end.decisions),
        plural(window_probe, "zero-window probe"),
        plural(answer, "answer"),
        list(&end.causes),
    )?;
    match losses_text(&end.lost, &end.missed) {
        None => writeln!(writer, "Nothing was lost.")?,
        Some(text) => writeln!(writer, "Not everything was seen: {text}.")?,
    }
    let owner = end.lost.owner;
    if owner > 0 {
        writeln!(writer, "{} without a known owner.", plural(owner, "event"))?;
    }
    Ok(())
}
