//! The loop of a live session: each source of events is one arm of a single `select`, and each gets its
//! turn. A flood of records delays neither a signal nor the clock nor a key.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::unix::AsyncFd,
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::Session;
use crate::machine::{
    readiness::readable,
    stop::{self, Requests},
};

/// How long records are processed before signals, keys and the clock are polled.
const SLICE: Duration = Duration::from_millis(20);
/// How long records wait for the listing of older sockets, which resolves their owners.
const HEAD_START: Duration = Duration::from_millis(300);

/// The intervals of the loop.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Interval of reading the losses, and of the command's regular work.
    pub tick: Duration,
    /// The delay after a wakeup, so that a burst of records costs one wakeup.
    pub gather: Duration,
}

impl Pace {
    /// Of a command that prints lines.
    pub const LINES: Self = Self {
        tick: Duration::from_secs(1),
        gather: Duration::from_millis(10),
    };
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The session has to stop.
    Stop,
    /// It was time for a tick.
    Tick,
    /// Records were processed, or the like.
    Work,
}

/// A session and its sources of wakeups.
pub struct Live {
    pub session: Session,
    ring: AsyncFd<OwnedFd>,
    requests: Requests,
    tick: Interval,
    gather: Duration,
    /// Records wait until this time, or until the listing ends.
    hold_until: Instant,
    /// The ring may have more records.
    more: bool,
}

impl Live {
    /// # Errors
    /// If a source of wakeups cannot be created.
    pub fn new(session: Session, pace: Pace) -> Result<Self> {
        let ring = readable(session.as_fd()).context("cannot wait for the ring buffer")?;
        let mut tick = interval(pace.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            session,
            ring,
            // `stop` sets the flag; these streams only wake the loop to check it.
            requests: Requests::new()?,
            tick,
            gather: pace.gather,
            hold_until: Instant::now() + HEAD_START,
            more: true,
        })
    }

    /// Does the next step, or waits for it. It is cancellation safe.
    pub async fn turn(&mut self) -> Result<Turn> {
        if stop::is_requested() || self.session.pipeline.is_done() {
            return Ok(Turn::Stop);
        }
        let seeding = self.session.seeding.is_running();
        let holds = seeding && Instant::now() < self.hold_until;
        tokio::select! {
            biased;
            () = self.requests.recv() => return Ok(Turn::Stop),
            () = until(stop::deadline()) => return Ok(Turn::Stop),
            _ = self.tick.tick() => {
                self.session.report_losses()?;
                let now = self.session.now();
                self.session.pipeline.report_unread(now)?;
                // The ring sends a wakeup only if it was empty: after a wakeup that the kernel loses
                // (measured on a 6.18.44) no other would come.
                self.more = true;
                return Ok(Turn::Tick);
            }
            // Each reading makes a record: the ring is emptied first.
            () = until(self.session.next_look()), if !self.more => self.session.look(),
            older = self.session.seeding.next(), if seeding => {
                match older {
                    Some(older) => self.session.seed(&older)?,
                    None => self.end_of_seeding(),
                }
                if holds {
                    return Ok(Turn::Work);
                }
            }
            () = sleep_until(self.hold_until.into()), if holds => {}
            () = std::future::ready(()), if self.more && !holds => {}
            ready = self.ring.readable(), if !holds => {
                // Readiness is cleared before draining: a record that arrives meanwhile wakes the loop again.
                ready?.clear_ready();
                self.more = true;
                sleep(self.gather).await;
            }
        }
        self.more = self.session.drain(SLICE)?;
        Ok(Turn::Work)
    }

    /// The older sockets are listed. Their owners, if not yet resolved, get the rest of the waiting time.
    fn end_of_seeding(&mut self) {
        let left = self.hold_until.saturating_duration_since(Instant::now());
        self.session.pipeline.owners.await_first_pass(left);
        self.more = true;
    }
}

/// Sleeps until the deadline, for ever without one.
async fn until(deadline: Option<Duration>) {
    match deadline {
        Some(left) => sleep(left).await,
        None => std::future::pending().await,
    }
}
