//! Which sockets to look at for the answer to an outstanding probe: the next run of the timer, which would
//! show it, may be hours away. A socket is looked at soon after its probe, and then every second, unless its
//! timer runs within a second anyway.

use std::collections::VecDeque;

/// From a probe to the first look: longer than most round trips.
const FIRST: u64 = 400_000_000;
/// Between two looks.
const AGAIN: u64 = 900_000_000;

/// A probe to look after.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When, CLOCK_MONOTONIC, nanoseconds.
    due: u64,
    /// Address of the socket.
    key: u64,
    /// When the probe was sent: identifies it.
    sent: u64,
}

/// The looks that are due, oldest first; those after a new probe come before repeated ones.
#[derive(Debug, Default)]
pub struct Looks {
    first: VecDeque<Look>,
    again: VecDeque<Look>,
}

impl Looks {
    /// A probe was sent.
    pub fn probed(&mut self, key: u64, sent: u64) {
        let due = sent.saturating_add(FIRST);
        self.first.push_back(Look { due, key, sent });
    }

    /// When the next look is due, CLOCK_MONOTONIC, nanoseconds.
    pub fn next(&self) -> Option<u64> {
        let fronts = [self.first.front(), self.again.front()];
        fronts.into_iter().flatten().map(|look| look.due).min()
    }

    /// The addresses of at most `most` sockets to look at now. `is_outstanding` tells whether the probe that
    /// the socket at an address sent at that time is still unanswered; the others are forgotten.
    pub fn take(
        &mut self,
        now: u64,
        most: usize,
        mut is_outstanding: impl FnMut(u64, u64) -> bool,
    ) -> Vec<u64> {
        let mut keys = Vec::new();
        for queue in [Queue::First, Queue::Again] {
            // Looks that are repeated now are behind those that were there.
            for _ in 0..self.queue(queue).len() {
                if keys.len() >= most {
                    break;
                }
                let due = self.queue(queue).pop_front_if(|look| look.due <= now);
                let Some(look) = due else { break };
                if is_outstanding(look.key, look.sent) {
                    keys.push(look.key);
                    let due = now.saturating_add(AGAIN);
                    self.again.push_back(Look { due, ..look });
                }
            }
        }
        keys
    }

    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Look> {
        match queue {
            Queue::First => &mut self.first,
            Queue::Again => &mut self.again,
        }
    }
}

#[derive(Clone, Copy)]
enum Queue {
    First,
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_socket_is_looked_at_within_a_second_until_its_probe_is_resolved() {
        let mut looks = Looks::default();
        assert_eq!(looks.next(), None);
        looks.probed(7, 1000 * MS);
        assert_eq!(looks.next(), Some(1400 * MS));
        assert!(looks.take(1399 * MS, 9, |_, _| true).is_empty());
        let asked = |key, sent| (key, sent) == (7, 1000 * MS);
        assert_eq!(looks.take(1450 * MS, 9, asked), [7]);
        assert_eq!(looks.next(), Some(2350 * MS));
        assert!(looks.take(2350 * MS, 9, |_, _| false).is_empty());
        assert_eq!(looks.next(), None);
    }

    #[test]
    fn new_probes_come_first_and_none_is_forgotten() {
        let mut looks = Looks::default();
        for key in 0..3 {
            looks.probed(key, 0);
        }
        assert_eq!(looks.take(500 * MS, 2, |_, _| true), [0, 1]);
        looks.probed(9, 1000 * MS);
        assert_eq!(looks.take(1500 * MS, 3, |_, _| true), [2, 9, 0]);
        assert_eq!(looks.take(1500 * MS, 3, |_, _| true), [1]);
    }
}
