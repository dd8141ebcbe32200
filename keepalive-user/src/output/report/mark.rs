//! The mark of an event: a shape and a colour, so that no information is in the colour only. Marks
//! are in order of importance: where several overlap, the last one is visible.

use strum::{EnumIter, IntoStaticStr};

use crate::core::event::{Decision, Event, Meaning, TimerRun};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[repr(u8)]
pub enum Mark {
    NotIdle,
    FinWait2,
    Stopped,
    SocketBusy,
    Armed,
    Closed,
    EndUnseen,
    DataInFlight,
    DataUnsent,
    Probe,
    Answer,
    WindowProbe,
    AnotherProbe,
    NotSent,
    ResetOrAborted,
    TimedOut,
}

impl Mark {
    /// The name of its shape and its colours.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The letter of the mark in a strip.
    pub fn letter(self) -> char {
        char::from(b'a' + self as u8)
    }

    /// The label of the mark.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotIdle => "not idle",
            Self::FinWait2 => "FIN_WAIT2",
            Self::Stopped => "timer stopped",
            Self::SocketBusy => "socket in use",
            Self::Armed => "keepalive set",
            Self::Closed => "closed",
            Self::EndUnseen => "ended unseen",
            Self::DataInFlight => "data in flight",
            Self::DataUnsent => "data unsent",
            Self::Probe => "probe sent",
            Self::Answer => "answered",
            Self::WindowProbe => "zero-window probe",
            Self::AnotherProbe => "repeated probe",
            Self::NotSent => "probe not sent",
            Self::ResetOrAborted => "reset or aborted",
            Self::TimedOut => "timed out",
        }
    }

    /// The meaning of the mark, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NotIdle => "no probe: the last segment from the peer is newer than the idle time",
            Self::FinWait2 => "not keepalive: the FIN_WAIT2 timer of an orphan",
            Self::Stopped => "keepalive is off, or the connection is not open",
            Self::SocketBusy => "no probe: the socket was in use, retried after 50 ms",
            Self::Armed => "keepalive was switched on, off or retimed",
            Self::Closed => "closed by the owner or by the peer",
            Self::EndUnseen => "ended, and the cause was not seen",
            Self::DataInFlight => "no probe: data is unacknowledged, retransmission decides",
            Self::DataUnsent => "no probe: data is waiting to be sent (zero window)",
            Self::Probe => "the first probe after the idle time",
            Self::Answer => "the peer answered a probe",
            Self::WindowProbe => "a probe that asks whether the peer's window has opened",
            Self::AnotherProbe => "a probe after an unanswered one",
            Self::NotSent => "a probe that did not leave this host",
            Self::ResetOrAborted => "ended by a reset, an abort or a network error",
            Self::TimedOut => "ended by a timer: no answer",
        }
    }

    /// The path of the shape: around the origin, 12 units wide, filled.
    pub fn path(self) -> &'static str {
        match self {
            Self::NotIdle => "M-1-4H1V4H-1z",
            Self::FinWait2 => "M-3-4H-1V4H-3zM1-4H3V4H1z",
            Self::Stopped => "M-4-4H4V4H-4zM-2-2V2H2V-2z",
            Self::SocketBusy => "M-4-4H4L-4 4H4z",
            Self::Armed => "M-3-5H-1V5H-3zM-1-5L5-2L-1 1z",
            Self::Closed => "M-5-1.2H5V1.2H-5z",
            Self::EndUnseen => "M-5-1.2H-2V1.2H-5zM2-1.2H5V1.2H2z",
            Self::DataInFlight => "M-4.2-4.2H4.2V4.2H-4.2z",
            Self::DataUnsent => "M-4.4-4.4H4.4V4.4H-4.4zM-2.2-2.2V2.2H2.2V-2.2z",
            Self::Probe => "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",
            Self::Answer => "M-5-3.5H5L0 5z",
            Self::WindowProbe => "M0-5.8L5.8 0L0 5.8L-5.8 0z",
            Self::AnotherProbe => "M0-5.6L5.6 4.6H-5.6z",
            Self::NotSent => {
                "M-5.4 0a5.4 5.4 0 1 0 10.8 0a5.4 5.4 0 1 0-10.8 0zM-2.6-1.2H2.6V1.2H-2.6z"
            }
            Self::ResetOrAborted => "M-5-5H-2V5H-5zM2-5H5V5H2zM-2-1H2V1H-2z",
            Self::TimedOut => "M-6-4L-4-6L0-2L4-6L6-4L2 0L6 4L4 6L0 2L-4 6L-6 4L-2 0z",
        }
    }

    /// The colours, light and dark.
    pub fn colours(self) -> (&'static str, &'static str) {
        match self {
            Self::NotIdle | Self::FinWait2 | Self::Stopped | Self::SocketBusy => {
                ("#7c8798", "#8e99ab")
            }
            Self::Armed => ("#3f6f8f", "#7fb2d1"),
            Self::Closed | Self::EndUnseen => ("#5d6675", "#a6b0c0"),
            Self::DataInFlight => ("#7b4fc4", "#b395ee"),
            Self::DataUnsent | Self::WindowProbe => ("#a36a00", "#e3b341"),
            Self::Probe => ("#2563d9", "#6ea8ff"),
            Self::Answer => ("#0b8461", "#3fcf9f"),
            Self::AnotherProbe | Self::NotSent => ("#c2410c", "#ff9a5c"),
            Self::ResetOrAborted => ("#b02a6b", "#f283b6"),
            Self::TimedOut => ("#cf222e", "#ff7b72"),
        }
    }

    /// The mark of an event about a socket.
    pub fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Armed(_) => Self::Armed,
            Event::Timer(event) => Self::of_timer(&event.what),
            Event::WindowProbe(event) if event.what.sent == Some(false) => Self::NotSent,
            Event::WindowProbe(_) => Self::WindowProbe,
            Event::SendRetry(_) => Self::NotSent,
            Event::Answer(_) => Self::Answer,
            Event::Closed(event) => Self::of_meaning(event.what.cause.meaning()),
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => return None,
        })
    }

    pub fn of_timer(run: &TimerRun) -> Self {
        match run.decision {
            Decision::ProbeSent if run.is_unsent() => Self::NotSent,
            Decision::ProbeSent if run.attempt > Some(1) => Self::AnotherProbe,
            Decision::ProbeSent => Self::Probe,
            Decision::ProbeFailed => Self::NotSent,
            Decision::DataInFlight => Self::DataInFlight,
            Decision::DataUnsent => Self::DataUnsent,
            Decision::NotIdle => Self::NotIdle,
            Decision::SocketBusy => Self::SocketBusy,
            Decision::Stopped => Self::Stopped,
            Decision::FinWait2 => Self::FinWait2,
            Decision::Killed => Self::TimedOut,
        }
    }

    pub fn of_meaning(meaning: Meaning) -> Self {
        match meaning {
            Meaning::TimedOut => Self::TimedOut,
            Meaning::ResetOrAborted => Self::ResetOrAborted,
            Meaning::Orderly => Self::Closed,
            Meaning::Unknown => Self::EndUnseen,
        }
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    /// The marks are distinguishable without colours.
    #[test]
    fn shapes_differ() {
        let shapes: std::collections::BTreeSet<&str> = Mark::iter().map(Mark::path).collect();
        assert_eq!(shapes.len(), Mark::iter().count());
    }
}
