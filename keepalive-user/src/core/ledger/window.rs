//! The zero-window phases of one socket: when the peer accepted no data. Times are nanoseconds of any one
//! clock.

use crate::core::event::{Decision, Event};

/// Maximum number of separate phases.
const PHASES: usize = 64;
/// How late a zero-window probe may be after its deadline, nanoseconds, in addition to the eighth of
/// its time by which the kernel's timer may be late.
const LATE: u64 = 1_000_000_000;

/// A time in which the peer accepted no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    pub from: u64,
    pub to: u64,
    /// The latest time of the next probe, if the phase continues.
    due: u64,
}

/// The phases of one socket, oldest first.
#[derive(Clone, Debug, Default)]
pub struct ZeroWindows {
    phases: Vec<Phase>,
    /// Whether the last phase continues.
    is_shut: bool,
}

impl ZeroWindows {
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Whether the window was shut when last seen.
    pub fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// Processes an event of the socket, at this time.
    pub fn observe(&mut self, event: &Event, at: u64) {
        match event {
            Event::WindowProbe(event) => self.probed(at, event.what.next_ms),
            Event::Timer(event) => {
                let waits = event.what.decision == Decision::DataUnsent;
                self.is_shut = self.is_shut && waits && self.extend(at);
            }
            Event::Closed(_) => self.settle(at),
            Event::Start(_)
            | Event::Armed(_)
            | Event::SendRetry(_)
            | Event::Answer(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => {}
        }
    }

    /// Ends the observation at this time, without a further event of the socket.
    pub fn settle(&mut self, at: u64) {
        self.is_shut = self.extend(at);
    }

    /// A zero-window probe: the phase begins or continues.
    fn probed(&mut self, at: u64, next_ms: Option<u64>) {
        if !self.extend(at) && self.phases.len() < PHASES {
            self.phases.push(Phase {
                from: at,
                to: at,
                due: at,
            });
        }
        let wait = next_ms.unwrap_or(0).saturating_mul(1_250_000);
        if let Some(phase) = self.phases.last_mut() {
            phase.to = at;
            phase.due = at.saturating_add(wait).saturating_add(LATE);
        }
        self.is_shut = next_ms.is_some();
    }

    /// Extends the last phase until now, if it still continues; returns whether it does.
    fn extend(&mut self, at: u64) -> bool {
        let last = self.phases.last_mut();
        let lasting = last.filter(|phase| self.is_shut && phase.due >= at);
        lasting.map(|phase| phase.to = phase.to.max(at)).is_some()
    }
}
