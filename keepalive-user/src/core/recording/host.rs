//! Frames of the host rather than of a socket.

use anyhow::Result;

use super::{
    bytes::{take, take_u32, take_u64},
    frame::{FrameKind, write_numbers},
    places::Numbered,
};
use crate::core::{
    clock::Offset,
    event::{Sysctl, UnaffectedSockets},
    wire::Unknown,
};

/// Times are CLOCK_MONOTONIC, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFrame {
    /// Wall-clock times have this offset from its time on. A later file repeats those before it.
    Clock(Offset),
    /// The host was suspended, and the trace noticed it at this time.
    Suspend { duration_ns: u64, time: u64 },
    /// The wall clock was set, and the trace noticed it at this time.
    ClockStep { step_ns: i64, time: u64 },
    /// A sysctl was changed, and the trace noticed it at this time.
    Sysctl {
        time: u64,
        /// When the old value was last seen.
        since: u64,
        netns: u32,
        name: Sysctl,
        old: u64,
        new: u64,
        sockets: UnaffectedSockets,
    },
}

impl HostFrame {
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Clock(_) => FrameKind::Clock,
            Self::Suspend { .. } => FrameKind::Suspend,
            Self::ClockStep { .. } => FrameKind::ClockStep,
            Self::Sysctl { .. } => FrameKind::Sysctl,
        }
    }

    /// When it was noticed; 0 if it repeats an earlier one.
    pub fn time(&self) -> u64 {
        match *self {
            Self::Clock(_) => 0,
            Self::Suspend { time, .. } | Self::ClockStep { time, .. } => time,
            Self::Sysctl { time, .. } => time,
        }
    }

    /// Appends the contents to a block.
    pub fn write(&self, block: &mut Vec<u8>) {
        match *self {
            Self::Clock(Offset { since, offset_ns }) => {
                write_numbers([since, offset_ns.cast_unsigned()], block);
            }
            Self::Suspend { duration_ns, time } => write_numbers([duration_ns, time], block),
            Self::ClockStep { step_ns, time } => {
                write_numbers([step_ns.cast_unsigned(), time], block);
            }
            Self::Sysctl {
                time,
                since,
                netns,
                name,
                old,
                new,
                sockets,
            } => {
                let UnaffectedSockets {
                    tracked,
                    armed,
                    own,
                } = sockets;
                block.push(name.number());
                block.extend(netns.to_le_bytes());
                write_numbers([old, new, since, time, tracked, armed, own], block);
            }
        }
    }
}

pub fn read_clock(from: &mut &[u8]) -> Result<HostFrame> {
    Ok(HostFrame::Clock(Offset {
        since: take_u64(from)?,
        offset_ns: take_u64(from)?.cast_signed(),
    }))
}

pub fn read_suspend(from: &mut &[u8]) -> Result<HostFrame> {
    Ok(HostFrame::Suspend {
        duration_ns: take_u64(from)?,
        time: take_u64(from)?,
    })
}

pub fn read_clock_step(from: &mut &[u8]) -> Result<HostFrame> {
    Ok(HostFrame::ClockStep {
        step_ns: take_u64(from)?.cast_signed(),
        time: take_u64(from)?,
    })
}

pub fn read_sysctl(from: &mut &[u8]) -> Result<Result<HostFrame, Unknown>> {
    let ([name], netns) = (take(from)?, take_u32(from)?);
    let [old, new] = [take_u64(from)?, take_u64(from)?];
    let [since, time] = [take_u64(from)?, take_u64(from)?];
    let sockets = UnaffectedSockets {
        tracked: take_u64(from)?,
        armed: take_u64(from)?,
        own: take_u64(from)?,
    };
    Ok(Numbered::of_number(name).map(|name| HostFrame::Sysctl {
        time,
        since,
        netns,
        name,
        old,
        new,
        sockets,
    }))
}
