//! Actions of the kernel that no program saw, over all sockets, and since when.

use std::collections::BTreeMap;

use strum::IntoEnumIterator;

use crate::core::event::{MissedCounts, MissedWhere};

#[derive(Clone, Debug, Default)]
pub struct Unseen {
    /// All so far, reported or not.
    pub counts: MissedCounts,
    /// CLOCK_MONOTONIC of the earliest observation before the unreported ones, nanoseconds.
    since: BTreeMap<MissedWhere, u64>,
}

impl Unseen {
    /// Adds actions that happened after an observation.
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

    /// The earliest time of an unreported action of this kind.
    pub fn since(&self, place: MissedWhere) -> Option<u64> {
        self.since.get(&place).copied()
    }

    /// Marks all as reported.
    pub fn reported(&mut self) {
        self.since.clear();
    }
}
