//! Events by kind, decision and cause, of a whole trace.

use std::collections::BTreeMap;

use super::Seen;
use crate::core::{
    event::{Cause, Decision, Event, EventCounts},
    format::name,
};

/// Events by kind, decision and cause: the numbers of the `end` line.
#[derive(Default)]
pub struct Counts {
    pub events: EventCounts,
    decisions: BTreeMap<Decision, u64>,
    causes: BTreeMap<Cause, u64>,
    seen: Seen,
}

impl Counts {
    pub fn add(&mut self, event: &Event) {
        if let Some(about) = event.about() {
            self.seen.insert(about.socket.id);
        }
        match event {
            Event::Armed(_) => self.events.armed += 1,
            Event::Timer(event) => {
                self.events.timer += 1;
                *self.decisions.entry(event.what.decision).or_default() += 1;
            }
            Event::WindowProbe(_) => self.events.window_probe += 1,
            Event::SendRetry(_) => self.events.send_retry += 1,
            Event::Answer(_) => self.events.answer += 1,
            Event::Closed(event) => {
                self.events.closed += 1;
                *self.causes.entry(event.what.cause).or_default() += 1;
            }
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::End(_) => {}
            Event::Suspend(_) => self.events.suspend += 1,
            Event::ClockStep(_) => self.events.clock_step += 1,
            Event::Sysctl(_) => self.events.sysctl += 1,
        }
    }

    /// Sockets seen.
    pub fn sockets(&self) -> u64 {
        self.seen.count()
    }

    pub fn decisions(&self) -> BTreeMap<String, u64> {
        named(&self.decisions)
    }

    pub fn causes(&self) -> BTreeMap<String, u64> {
        named(&self.causes)
    }
}

fn named<T: Copy + Into<&'static str>>(counts: &BTreeMap<T, u64>) -> BTreeMap<String, u64> {
    let counts = counts.iter();
    counts
        .map(|(it, count)| (name(*it).to_owned(), *count))
        .collect()
}
