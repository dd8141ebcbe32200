//! All sockets, folded from events.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::row::{DYING, Row};
use crate::core::event::{About, Event, Start};

/// Rows kept; of more, the least urgent half is dropped.
const ROWS: usize = 100_000;
/// How long a socket that died stays on the screen, nanoseconds.
const LINGER: u64 = 10_000_000_000;
/// How long after its deadline a timer is shown, nanoseconds, in addition to an eighth of its time, by
/// which the timer wheel may be late. After that the timer was deleted unseen (tracepoint backend) or
/// the record was lost.
const OVERDUE: u64 = 60_000_000_000;

/// How often the rows of ended sockets are dropped, nanoseconds: this visits every row.
const SWEEP: u64 = 500_000_000;

/// The sockets and counters of the screen.
#[derive(Clone, Default)]
pub struct Sockets {
    /// Shared with the paused screen until they change.
    pub rows: FxHashMap<u64, Rc<Row>>,
    pub start: Option<Box<Start>>,
    /// Sockets that did not end by being closed.
    pub died: u64,
    /// Number of observations that were reported as lost or missed.
    pub lost: u64,
    /// When ended sockets were last dropped, CLOCK_MONOTONIC nanoseconds.
    swept: Option<u64>,
}

/// The numbers of the head line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub sockets: usize,
    /// Probes that are out.
    pub out: usize,
    pub dying: usize,
}

impl Sockets {
    pub fn event(&mut self, event: &Event) {
        if let Some(about) = event.about() {
            self.observe(about, event);
        }
        match event {
            Event::Closed(it) => self.died += u64::from(it.what.cause.meaning().is_violent()),
            Event::Lost(lost) => self.lost += lost.count,
            Event::Missed(missed) => self.lost += missed.count,
            Event::Start(start) => self.start = Some(start.clone()),
            Event::Armed(_)
            | Event::Timer(_)
            | Event::WindowProbe(_)
            | Event::SendRetry(_)
            | Event::Answer(_)
            | Event::Finding(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => {}
        }
    }

    fn observe(&mut self, about: About<'_>, event: &Event) {
        let id = about.socket.id;
        if self.rows.len() >= ROWS && !self.rows.contains_key(&id) {
            self.make_room();
        }
        let sockets = self.rows.len();
        let row = self.rows.entry(id);
        let row = row.or_insert_with(|| Rc::new(Row::new(about)));
        Rc::make_mut(row).observe(about, event, sockets);
    }

    /// Drops the less urgent half, and counts it as lost.
    fn make_room(&mut self) {
        let mut order: Vec<_> = self
            .rows
            .iter()
            .map(|(id, row)| (row.urgency(), *id))
            .collect();
        order.sort_unstable();
        for (_, id) in order.drain(ROWS / 2..) {
            self.rows.remove(&id);
            self.lost += 1;
        }
    }

    /// Drops the sockets that have ended, except for the one that is explained.
    pub fn forget(&mut self, now: u64, open: Option<u64>) {
        if self
            .swept
            .is_some_and(|swept| now.wrapping_sub(swept) < SWEEP)
        {
            return;
        }
        self.swept = Some(now);
        self.rows
            .retain(|id, row| Some(*id) == open || !is_over(row, now));
    }

    pub fn census(&self) -> Census {
        let mut census = Census::default();
        let rows = self.rows.values();
        for row in rows.filter(|row| row.history.end.is_none()) {
            census.sockets += 1;
            census.out += usize::from(row.history.probe.is_some());
            census.dying += usize::from(row.urgency().0 == DYING);
        }
        census
    }
}

fn is_over(row: &Row, now: u64) -> bool {
    let history = &row.history;
    if let Some(end) = &history.end {
        return !end.closed.cause.meaning().is_violent() || now > end.at.saturating_add(LINGER);
    }
    match history.timer {
        Some(timer) => {
            let late = OVERDUE + timer.due.saturating_sub(timer.set) / 8;
            now > timer.due.saturating_add(late)
        }
        None => !history.keepalive.enabled && history.probe.is_none(),
    }
}
