//! One socket on the screen: its history, its last events, and its urgency.

use std::collections::VecDeque;

use crate::{
    core::{
        event::{About, Event, Socket, When},
        ledger::History,
    },
    output::words::owner,
};

/// Maximum number of events kept of one socket …
const EVENTS: usize = 16;
/// … and of all sockets together, in addition to the last one of each.
const ALL_EVENTS: usize = 1 << 15;

/// One socket. Times are CLOCK_MONOTONIC, nanoseconds.
#[derive(Clone)]
pub struct Row {
    pub history: History,
    /// The last events, oldest first.
    pub events: VecDeque<(When, Event)>,
    /// Owner and addresses, in lower case.
    text: String,
}

/// The order of rows by urgency: the smallest first.
pub type Urgency = (u8, u64);

/// At least one probe is unanswered.
pub const DYING: u8 = 0;
/// The connection ended otherwise than by being closed.
const DIED: u8 = 1;
/// A probe is out; whether it was answered is read within a second or at the next timer.
const WAITING: u8 = 2;
const QUIET: u8 = 3;
const STOPPED: u8 = 4;

impl Row {
    pub fn new(about: About<'_>) -> Self {
        Self {
            history: History::new(about),
            events: VecDeque::new(),
            text: String::new(),
        }
    }

    /// Folds and keeps an event; `sockets` is the number of rows, which limits how many are kept.
    pub fn observe(&mut self, about: About<'_>, event: &Event, sockets: usize) {
        let owner_before = self.history.process.clone();
        self.history.observe(about, event);
        if self.text.is_empty() || self.history.process != owner_before {
            let owner = owner(self.history.process.as_ref());
            let Socket { local, peer, .. } = &self.history.socket;
            self.text = format!("{owner} {local} {peer}").to_lowercase();
        }
        self.remember(about.when, event, sockets);
    }

    /// Limits memory: an event has 400 bytes, and there may be 100,000 sockets.
    fn remember(&mut self, when: When, event: &Event, sockets: usize) {
        let most = (ALL_EVENTS / sockets.max(1)).clamp(1, EVENTS);
        while self.events.len() >= most {
            self.events.pop_front();
        }
        self.events.reserve_exact(1);
        self.events.push_back((when, event.clone()));
        if self.events.capacity() > most {
            self.events.shrink_to(most);
        }
    }

    /// Closest to death first.
    pub fn urgency(&self) -> Urgency {
        let History {
            timer,
            death,
            probe,
            end,
            ..
        } = &self.history;
        let due = timer.map_or(u64::MAX, |timer| timer.due);
        let death = death.map_or(due, |(at, _)| at);
        match (end, probe) {
            (Some(end), _) if end.closed.cause.meaning().is_violent() => (DIED, u64::MAX - end.at),
            (Some(_), _) => (STOPPED, u64::MAX),
            (None, Some(probe)) if probe.attempt > 1 => (DYING, death),
            (None, Some(_)) => (WAITING, death),
            (None, None) if timer.is_some() => (QUIET, due),
            (None, None) => (STOPPED, self.history.socket.id),
        }
    }

    /// The last event, as shown in the column LAST.
    pub fn last(&self) -> &'static str {
        self.history.last.map_or("", |last| last.name())
    }

    /// Whether the row contains a lower-case text.
    pub fn mentions(&self, text: &str) -> bool {
        self.text.contains(text) || self.last().contains(text)
    }

    /// The sort key by owner.
    pub fn text(&self) -> &str {
        &self.text
    }
}
