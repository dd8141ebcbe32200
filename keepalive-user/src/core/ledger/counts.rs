//! Events by kind, decision and cause, of a whole trace.

use std::collections::BTreeMap;

use crate::core::{
    event::{Cause, Decision, Event, EventCounts},
    words::name,
};

/// Events by kind, decision and cause: the numbers of the `end` line.
#[derive(Default)]
pub struct Counts {
    pub events: EventCounts,
    decisions: [u64; Decision::ALL.len()],
    causes: [u64; Cause::ALL.len()],
    /// A bit for each socket number that was seen: they are given in order.
    seen: Vec<u64>,
}

impl Counts {
    pub fn add(&mut self, event: &Event) {
        let id = match event {
            Event::Armed(event) => {
                self.events.armed += 1;
                event.socket.id
            }
            Event::Timer(event) => {
                self.events.timer += 1;
                self.decisions[event.what.decision as usize] += 1;
                event.socket.id
            }
            Event::WindowProbe(event) => {
                self.events.window_probe += 1;
                event.socket.id
            }
            Event::Answer(event) => {
                self.events.answer += 1;
                event.socket.id
            }
            Event::Closed(event) => {
                self.events.closed += 1;
                self.causes[event.what.cause as usize] += 1;
                event.socket.id
            }
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::End(_) => return,
        };
        let word = usize::try_from(id / 64).unwrap_or(usize::MAX);
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << (id % 64);
    }

    /// Sockets seen.
    pub fn sockets(&self) -> u64 {
        self.seen
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    pub fn decisions(&self) -> BTreeMap<String, u64> {
        named(&Decision::ALL, &self.decisions)
    }

    pub fn causes(&self) -> BTreeMap<String, u64> {
        named(&Cause::ALL, &self.causes)
    }
}

/// The numbers that are not 0, by name.
fn named(names: &[impl serde::Serialize], counts: &[u64]) -> BTreeMap<String, u64> {
    let counted = names.iter().zip(counts).filter(|(_, count)| **count > 0);
    counted.map(|(it, count)| (name(it), *count)).collect()
}
