//! How the connections of a service are closed, by either side.

use std::time::Duration;

use crate::core::event::{Cause, Closed, IdleCloses, Span};

/// The connections that each side closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closes {
    pub owner: IdleCloses,
    pub peer: IdleCloses,
}

impl Closes {
    /// None yet, watched for this time.
    pub fn within(time: Duration) -> Self {
        let none = IdleCloses {
            watched_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            closed: 0,
            idle_ms: None,
        };
        Self {
            owner: none,
            peer: none,
        }
    }

    /// Counts the end of a connection, if one side closed it.
    pub fn add(&mut self, closed: &Closed) {
        let side = match closed.cause {
            Cause::LocalClose | Cause::OwnerKilled => &mut self.owner,
            Cause::PeerFin => &mut self.peer,
            Cause::KeepaliveProbes
            | Cause::KeepaliveUserTimeout
            | Cause::RetransmitTimeout
            | Cause::RetransmitUserTimeout
            | Cause::ConnectTimeout
            | Cause::ConnectUserTimeout
            | Cause::ConnectAbandoned
            | Cause::WindowProbeTimeout
            | Cause::WindowProbeUserTimeout
            | Cause::SendTimeout
            | Cause::SendUserTimeout
            | Cause::OrphanTimeout
            | Cause::OrphanUserTimeout
            | Cause::OutOfResources
            | Cause::PeerReset
            | Cause::LocalAbort
            | Cause::OutsideAbort
            | Cause::NetworkError
            | Cause::Unknown => return,
        };
        side.closed += 1;
        if let Some(ms) = closed.last_data_ms {
            let span = side.idle_ms.unwrap_or(Span::exactly(ms));
            side.idle_ms = Some(Span {
                least: span.least.min(ms),
                most: span.most.max(ms),
            });
        }
    }
}
