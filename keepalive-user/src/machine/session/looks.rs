//! Reads sockets for the answers to their probes, and skips records that show nothing.

use std::time::Duration;

use keepalive_ebpf::{Kind, Record, Within};
use linux_raw_sys::errno;

use super::{POLLED_AT_ONCE, Session};
use crate::{
    core::{arithmetic::jiffies_to_millis, sample::silence},
    machine::{
        bpf::{PollResult, self_test::is_of_a_self_test},
        clock::monotonic_ns,
    },
};

/// Looks wait for each other at least as long, so that many sockets cost few wakeups.
const GATHER: u64 = 100_000_000;
/// A look that took longer is followed by a pause of this many times as long: it takes a fifth of a CPU at most.
const PAUSE: u64 = 4;
/// A reset after a shorter silence is ordinary, milliseconds.
const SILENT_MS: u64 = 5000;

impl Session {
    /// Until sockets have to be read for the answers to their probes; `None` if no probe is outstanding.
    pub fn next_look(&self) -> Option<Duration> {
        let due = self.pipeline.next_look()?;
        let due = due.max(self.next_look);
        Some(Duration::from_nanos(due.saturating_sub(monotonic_ns())))
    }

    /// Reads the sockets whose probes may have been answered, a bounded number at a time.
    pub fn look(&mut self) {
        let begin = monotonic_ns();
        self.look_at_those_of(begin);
        let end = monotonic_ns();
        let pause = end.saturating_sub(begin).saturating_mul(PAUSE);
        self.next_look = end.saturating_add(pause.max(GATHER));
    }

    /// Reads them at the end, whenever their probes were sent: as many as are read at a time.
    pub fn look_at_all(&mut self) {
        self.look_at_those_of(u64::MAX);
    }

    fn look_at_those_of(&mut self, time: u64) {
        for sk in self.pipeline.looks(time, POLLED_AT_ONCE) {
            match self.source.poll(sk) {
                // If it is gone, the record of its end is in the ring.
                Ok(PollResult::Reported | PollResult::Gone) => {}
                Ok(PollResult::RingFull) => return,
                Err(error) => {
                    log::debug!("cannot read a socket: {error:#}");
                    return;
                }
            }
        }
    }

    /// Whether a record is of no interest to any output: of a self-test, of this or another instance; a
    /// reading that shows nothing new; or a reset of a connection without keepalive that was in use. A socket
    /// that was reported before is still reported: any process may set the options of a self-test.
    pub fn is_of_no_interest(&mut self, record: &Record) -> bool {
        if record.kind == Kind::Polled && self.pipeline.is_redundant(record) {
            return true;
        }
        let is_ordinary = is_of_a_self_test(&record.id, &record.settings)
            || (!self.all_ends && self.is_ordinary_reset(record));
        is_ordinary && !self.pipeline.knows(&record.id)
    }

    fn is_ordinary_reset(&self, record: &Record) -> bool {
        let silence = silence(&record.after).map_or(0, |jiffies| {
            jiffies_to_millis(jiffies.into(), self.source.learned.hz)
        });
        record.kind == Kind::Close
            && record.within == Within::Nothing
            && !record.id.keepopen
            && matches!(record.id.error, errno::ECONNRESET | errno::EPIPE)
            && silence < SILENT_MS
    }
}
