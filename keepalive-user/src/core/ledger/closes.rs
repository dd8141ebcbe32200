//! How the owner closes its connections.

use std::time::Duration;

use crate::core::event::{Cause, Closed, OwnerCloses, Span};

impl OwnerCloses {
    /// None yet, watched for this time.
    pub fn within(time: Duration) -> Self {
        Self {
            watched_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            closed: 0,
            idle_ms: None,
        }
    }

    /// Counts the end of a connection, if this side closed it.
    pub fn add(&mut self, closed: &Closed) {
        if closed.cause != Cause::LocalClose {
            return;
        }
        self.closed += 1;
        if let Some(ms) = closed.last_data_ms {
            let span = self.idle_ms.unwrap_or(Span::exactly(ms));
            self.idle_ms = Some(Span {
                least: span.least.min(ms),
                most: span.most.max(ms),
            });
        }
    }
}
