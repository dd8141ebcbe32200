//! What no program saw, of all sockets, and since when.

use std::collections::BTreeMap;

use strum::IntoEnumIterator;

use crate::core::event::{MissedCounts, MissedWhere};

#[derive(Clone, Debug, Default)]
pub struct Unseen {
    /// So far, reported or not.
    pub counts: MissedCounts,
    /// CLOCK_MONOTONIC of the earliest observation before those not yet reported, nanoseconds.
    since: BTreeMap<MissedWhere, u64>,
}

impl Unseen {
    /// Adds what happened after an observation.
    pub fn add(&mut self, mut missed: MissedCounts, since: u64) {
        for place in MissedWhere::iter() {
            let count = *missed.at(place);
            if count > 0 {
                *self.counts.at(place) += count;
                let earliest = self.since.entry(place).or_insert(since);
                *earliest = since.min(*earliest);
            }
        }
    }

    /// Since when such a thing happened that is not reported yet.
    pub fn since(&self, place: MissedWhere) -> Option<u64> {
        self.since.get(&place).copied()
    }

    /// All is reported: what comes is counted from a later time.
    pub fn reported(&mut self) {
        self.since.clear();
    }
}
