//! The loop of a live session: everything that can happen is one arm of one `select`, and each gets
//! its turn. A flood of records delays neither a signal nor the clock nor a key.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::Session;
use crate::machine::{readiness::readable, stop};

/// How long records are processed before signals, keys and the clock have their turn.
const SLICE: Duration = Duration::from_millis(20);
/// How long records wait for the listing of older sockets, which knows their owners.
const HEAD_START: Duration = Duration::from_millis(300);

/// How often what happens.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Losses are read, and whatever the command does regularly.
    pub tick: Duration,
    /// Records gather this long after a wakeup, so that a burst costs one.
    pub gather: Duration,
}

/// What a turn was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The session has to stop.
    Stop,
    /// It was time for a tick.
    Tick,
    /// Records were processed, or the like.
    Work,
}

/// A session and what wakes it.
pub struct Live {
    pub session: Session,
    ring: AsyncFd<OwnedFd>,
    interrupt: Signal,
    terminate: Signal,
    tick: Interval,
    gather: Duration,
    /// Until then records wait, unless the listing ends before.
    hold_until: Instant,
    /// There may be more in the ring.
    more: bool,
}

impl Live {
    /// # Errors
    /// If the kernel refuses something to wait on.
    pub fn new(session: Session, pace: Pace) -> Result<Self> {
        let ring = readable(session.as_fd()).context("cannot wait for the ring buffer")?;
        let mut tick = interval(pace.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            session,
            ring,
            // `stop` has the flag; these wake us to look at it.
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            tick,
            gather: pace.gather,
            hold_until: Instant::now() + HEAD_START,
            more: true,
        })
    }

    /// Does what is to be done next, or waits for it. Nothing is lost if it is cancelled.
    pub async fn turn(&mut self) -> Result<Turn> {
        if stop::is_requested() || self.session.pipeline.is_done() {
            return Ok(Turn::Stop);
        }
        let seeding = self.session.seeding.is_running();
        let holds = seeding && Instant::now() < self.hold_until;
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => return Ok(Turn::Stop),
            _ = self.terminate.recv() => return Ok(Turn::Stop),
            () = until(stop::deadline()) => return Ok(Turn::Stop),
            _ = self.tick.tick() => {
                self.session.report_losses()?;
                let now = self.session.now();
                self.session.pipeline.report_unread(now)?;
                // The ring wakes us only if it was empty, so that one wakeup that a kernel loses
                // (measured on a 6.18.44) would be the last.
                self.more = true;
                return Ok(Turn::Tick);
            }
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
                // Cleared before the ring is drained: what comes meanwhile wakes us again.
                ready?.clear_ready();
                self.more = true;
                sleep(self.gather).await;
            }
        }
        self.more = self.session.drain(SLICE)?;
        Ok(Turn::Work)
    }

    /// The older sockets are listed; their owners, if they are not resolved yet, have what is left of
    /// the head start.
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
