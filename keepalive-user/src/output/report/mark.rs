//! What is drawn of an event: a shape and a colour each, the colour never alone. In order of how
//! much they matter: of those at one place the last is seen.

use crate::core::event::{Cause, Decision, Event, TimerRun};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mark {
    NotIdle,
    FinWait2,
    Stopped,
    SocketBusy,
    Armed,
    Closed,
    DataInFlight,
    DataUnsent,
    Probe,
    Answer,
    WindowProbe,
    AnotherProbe,
    NotSent,
    Cut,
    Killed,
}

/// How a mark looks and what it is called.
pub struct Look {
    pub mark: Mark,
    pub name: &'static str,
    pub label: &'static str,
    /// What it tells.
    pub meaning: &'static str,
    /// Around the origin, 12 units wide, filled.
    pub path: &'static str,
    pub light: &'static str,
    pub dark: &'static str,
}

pub const LOOKS: [Look; 15] = [
    Look {
        mark: Mark::NotIdle,
        name: "not_idle",
        label: "not idle",
        meaning: "the timer ran, the peer had been heard meanwhile: no probe needed",
        path: "M-1-4H1V4H-1z",
        light: "#7c8798",
        dark: "#8e99ab",
    },
    Look {
        mark: Mark::FinWait2,
        name: "fin_wait2",
        label: "FIN_WAIT2",
        meaning: "not keepalive: the FIN_WAIT2 timer of an orphan",
        path: "M-3-4H-1V4H-3zM1-4H3V4H1z",
        light: "#7c8798",
        dark: "#8e99ab",
    },
    Look {
        mark: Mark::Stopped,
        name: "stopped",
        label: "timer stopped",
        meaning: "keepalive is off, or the connection is not open",
        path: "M-4-4H4V4H-4zM-2-2V2H2V-2z",
        light: "#7c8798",
        dark: "#8e99ab",
    },
    Look {
        mark: Mark::SocketBusy,
        name: "socket_busy",
        label: "socket in use",
        meaning: "a process held the socket: tried again at once",
        path: "M-4-4H4L-4 4H4z",
        light: "#7c8798",
        dark: "#8e99ab",
    },
    Look {
        mark: Mark::Armed,
        name: "armed",
        label: "keepalive set",
        meaning: "keepalive was switched on, off or retimed",
        path: "M-3-5H-1V5H-3zM-1-5L5-2L-1 1z",
        light: "#3f6f8f",
        dark: "#7fb2d1",
    },
    Look {
        mark: Mark::Closed,
        name: "closed",
        label: "closed",
        meaning: "closed by one of its ends",
        path: "M-5-1.2H5V1.2H-5z",
        light: "#5d6675",
        dark: "#a6b0c0",
    },
    Look {
        mark: Mark::DataInFlight,
        name: "data_in_flight",
        label: "data in flight",
        meaning: "no probe: data is unacknowledged, retransmission decides",
        path: "M-4.2-4.2H4.2V4.2H-4.2z",
        light: "#7b4fc4",
        dark: "#b395ee",
    },
    Look {
        mark: Mark::DataUnsent,
        name: "data_unsent",
        label: "data waiting",
        meaning: "no probe: data waits to be sent, the window is closed",
        path: "M-4.4-4.4H4.4V4.4H-4.4zM-2.2-2.2V2.2H2.2V-2.2z",
        light: "#a36a00",
        dark: "#e3b341",
    },
    Look {
        mark: Mark::Probe,
        name: "probe",
        label: "probe sent",
        meaning: "the first probe after the idle time",
        path: "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0z",
        light: "#2563d9",
        dark: "#6ea8ff",
    },
    Look {
        mark: Mark::Answer,
        name: "answer",
        label: "answered",
        meaning: "the peer answered a probe",
        path: "M-5-3.5H5L0 5z",
        light: "#0b8461",
        dark: "#3fcf9f",
    },
    Look {
        mark: Mark::WindowProbe,
        name: "window_probe",
        label: "zero-window probe",
        meaning: "the peer takes no data; asked whether it does again",
        path: "M0-5.8L5.8 0L0 5.8L-5.8 0z",
        light: "#a36a00",
        dark: "#e3b341",
    },
    Look {
        mark: Mark::AnotherProbe,
        name: "another_probe",
        label: "probe again",
        meaning: "the probe before was not answered",
        path: "M0-5.6L5.6 4.6H-5.6z",
        light: "#c2410c",
        dark: "#ff9a5c",
    },
    Look {
        mark: Mark::NotSent,
        name: "not_sent",
        label: "probe not sent",
        meaning: "a probe that did not leave this host",
        path: "M-5.4 0a5.4 5.4 0 1 0 10.8 0a5.4 5.4 0 1 0-10.8 0zM-2.6-1.2H2.6V1.2H-2.6z",
        light: "#c2410c",
        dark: "#ff9a5c",
    },
    Look {
        mark: Mark::Cut,
        name: "cut",
        label: "reset or aborted",
        meaning: "ended by a reset, an abort or a network error",
        path: "M-5-5H-2V5H-5zM2-5H5V5H2zM-2-1H2V1H-2z",
        light: "#b02a6b",
        dark: "#f283b6",
    },
    Look {
        mark: Mark::Killed,
        name: "killed",
        label: "killed",
        meaning: "ended by a timer: nobody answered",
        path: "M-6-4L-4-6L0-2L4-6L6-4L2 0L6 4L4 6L0 2L-4 6L-6 4L-2 0z",
        light: "#cf222e",
        dark: "#ff7b72",
    },
];

impl Mark {
    pub const COUNT: usize = LOOKS.len();

    pub fn look(self) -> &'static Look {
        &LOOKS[self as usize]
    }

    /// As a letter, for strips of them.
    pub fn letter(self) -> char {
        char::from(b'a' + self as u8)
    }

    /// The mark of an event about a socket.
    pub fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::Armed(_) => Self::Armed,
            Event::Timer(event) => Self::of_timer(&event.what),
            Event::WindowProbe(event) if event.what.sent == Some(false) => Self::NotSent,
            Event::WindowProbe(_) => Self::WindowProbe,
            Event::Answer(_) => Self::Answer,
            Event::Closed(event) => Self::of_cause(event.what.cause),
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::End(_) => return None,
        })
    }

    pub fn of_timer(run: &TimerRun) -> Self {
        match run.decision {
            Decision::ProbeSent if run.sent == Some(false) => Self::NotSent,
            Decision::ProbeSent if run.attempt > Some(1) => Self::AnotherProbe,
            Decision::ProbeSent => Self::Probe,
            Decision::ProbeFailed => Self::NotSent,
            Decision::DataInFlight => Self::DataInFlight,
            Decision::DataUnsent => Self::DataUnsent,
            Decision::NotIdle => Self::NotIdle,
            Decision::SocketBusy => Self::SocketBusy,
            Decision::Stopped => Self::Stopped,
            Decision::FinWait2 => Self::FinWait2,
            Decision::Killed => Self::Killed,
        }
    }

    pub fn of_cause(cause: Cause) -> Self {
        match cause {
            Cause::PeerFin | Cause::LocalClose | Cause::Unknown => Self::Closed,
            Cause::PeerReset | Cause::LocalAbort | Cause::ConnectTimeout | Cause::NetworkError => {
                Self::Cut
            }
            Cause::KeepaliveProbes
            | Cause::KeepaliveUserTimeout
            | Cause::RetransmitTimeout
            | Cause::RetransmitUserTimeout
            | Cause::WindowProbeTimeout
            | Cause::WindowProbeUserTimeout => Self::Killed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_in_order() {
        for (index, look) in LOOKS.iter().enumerate() {
            assert_eq!(look.mark as usize, index, "{}", look.name);
        }
    }

    /// Who sees no colours sees the shapes.
    #[test]
    fn shapes_differ() {
        let shapes: std::collections::BTreeSet<&str> = LOOKS.iter().map(|look| look.path).collect();
        assert_eq!(shapes.len(), LOOKS.len());
    }
}
