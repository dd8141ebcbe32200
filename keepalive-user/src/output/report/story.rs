//! One socket: its identity, its totals, and as many of its events as are kept.

use std::collections::VecDeque;

use super::{
    mark::Mark,
    outcome::Outcome,
    phrase::Phrase,
    time::{Scale, fold},
};
use crate::{
    core::{
        event::{About, Event},
        format::plural,
        ledger::{Data, History, Last, Suppressed, ZeroWindows},
    },
    output::words::{certificate, owner, settings, verdict},
};

/// Number of first events that are kept; the others kept are the last ones.
const HEAD: usize = 8;
/// An event that is kept.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Nanoseconds since the trace began.
    pub at: u64,
    pub mark: Mark,
    /// Silence of the peer at the event, milliseconds.
    pub silence_ms: Option<u64>,
    pub rtt_us: Option<u64>,
    pub words: Phrase,
}

impl Moment {
    pub fn new(event: &Event, mark: Mark, at: u64, words: Phrase) -> Self {
        let (silence_ms, rtt_us) = match event {
            Event::Timer(event) => (event.what.idle_ms, None),
            Event::Answer(event) => (None, event.what.rtt_us),
            Event::Closed(event) => (event.what.idle_ms, None),
            Event::Start(_)
            | Event::Armed(_)
            | Event::WindowProbe(_)
            | Event::SendRetry(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => (None, None),
        };
        Self {
            at,
            mark,
            silence_ms,
            rtt_us,
            words,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Story {
    pub history: History,
    /// Times here and below are nanoseconds since the trace began.
    pub windows: ZeroWindows,
    /// First and last event.
    pub from: u64,
    pub to: u64,
    /// The worst mark of each bucket of time.
    pub strip: Vec<Option<Mark>>,
    head: Vec<Moment>,
    tail: VecDeque<Moment>,
    /// Number of events between head and tail that are not kept.
    pub left_out: u64,
}

impl Story {
    /// `is_partial`: its earlier story was dropped when there were too many sockets.
    pub fn new(about: About<'_>, since: u64, is_partial: bool) -> Self {
        let mut history = History::new(about);
        history.is_partial = is_partial;
        Self {
            history,
            windows: ZeroWindows::default(),
            from: since,
            to: since,
            strip: Vec::new(),
            head: Vec::new(),
            tail: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Folds an event of this socket.
    pub fn observe(&mut self, about: About<'_>, event: &Event, since: u64) {
        self.from = self.from.min(since);
        self.to = self.to.max(since);
        self.history.observe(about, event);
        self.windows.observe(event, since);
    }

    /// Keeps an event, instead of an older one if there is no room.
    pub fn keep(&mut self, moment: Moment, bucket: usize, room: usize) {
        if self.strip.len() <= bucket {
            self.strip.resize(bucket + 1, None);
        }
        self.strip[bucket] = self.strip[bucket].max(Some(moment.mark));
        if self.head.len() < HEAD {
            self.head.push(moment);
        } else {
            self.tail.push_back(moment);
        }
        self.shrink(room);
    }

    /// Drops events until the rest fits the room.
    pub fn shrink(&mut self, room: usize) {
        while self.tail.len() > room.saturating_sub(HEAD) {
            self.tail.pop_front();
            self.left_out += 1;
        }
    }

    /// The events that are kept: the first and the last ones.
    pub fn kept(&self) -> (&[Moment], &VecDeque<Moment>) {
        (&self.head, &self.tail)
    }

    pub fn moments(&self) -> impl Iterator<Item = &Moment> {
        self.head.iter().chain(&self.tail)
    }

    pub fn fold(&mut self) {
        fold(&mut self.strip, Ord::max);
    }

    pub fn owner(&self) -> String {
        owner(self.history.process.as_ref())
    }

    pub fn outcome(&self) -> Outcome {
        match self.history.cause() {
            Some(cause) => cause.meaning().into(),
            None if self.trouble().is_some() => Outcome::Troubled,
            None => Outcome::Open,
        }
    }

    /// The problem of an open socket: for one socket, and for a headline about several.
    fn trouble(&self) -> Option<(String, &'static str)> {
        let history = &self.history;
        let probes = |number: u64, what: &str| format!("{} {what}", plural(number, "probe"));
        if self.windows.is_shut() {
            return Some(("zero window".to_owned(), "with a zero window"));
        }
        if history.last == Some(Last::SendRetry) {
            return Some((
                "data cannot be sent from this host".to_owned(),
                "with data that this host cannot send",
            ));
        }
        if history.probes_out > 1 {
            let text = probes(history.probes_out.into(), "unanswered");
            return Some((text, "open, with unanswered probes at the end"));
        }
        if history.not_sent > 0 {
            let text = probes(history.not_sent.into(), "not sent");
            return Some((text, "with probes that did not leave this host"));
        }
        if let Some(Suppressed { runs: 2.., by }) = history.suppressed {
            let (text, sentence) = suppressed(by);
            return Some((text.to_owned(), sentence));
        }
        if history.unanswered() > 0 {
            let text = probes(history.unanswered(), "unanswered earlier");
            return Some((text, "with probes unanswered earlier"));
        }
        None
    }

    /// The problem of an open socket, for a headline about several.
    pub fn trouble_of_several(&self) -> Option<&'static str> {
        self.trouble().map(|(_, sentence)| sentence)
    }

    /// The outcome of the socket, in a few words.
    pub fn verdict(&self) -> String {
        match (self.history.cause(), self.trouble()) {
            (Some(cause), _) => verdict(cause).to_owned(),
            (None, Some((trouble, _))) => format!("open: {trouble}"),
            (None, None) => "open".to_owned(),
        }
    }

    /// The death certificate, in words.
    pub fn certificate(&self, scale: &Scale) -> Option<String> {
        let closed = &self.history.end.as_ref()?.closed;
        let heard = match closed.idle_ms {
            Some(idle) => scale.clock((self.to / 1_000_000).saturating_sub(idle)),
            None => "never".to_owned(),
        };
        Some(certificate(closed, &self.history.keepalive, &heard))
    }

    /// The keepalive settings.
    pub fn settings(&self) -> String {
        let keepalive = &self.history.keepalive;
        match keepalive.enabled {
            true => settings(keepalive),
            false => "keepalive off".to_owned(),
        }
    }

    /// The sort key: the worst socket has the least one.
    pub fn rank(&self) -> impl Ord + use<> {
        let history = &self.history;
        let worst_first = std::cmp::Reverse((
            history.unanswered(),
            history.probes_out,
            history.not_sent,
            history.suppressed.map_or(0, |suppressed| suppressed.runs),
            history.timers,
        ));
        (self.outcome(), worst_first, history.socket.id)
    }
}

/// The problem of sockets whose timer sends no probe: for one socket, and for several.
fn suppressed(by: Data) -> (&'static str, &'static str) {
    match by {
        Data::Unsent => ("data unsent", "not probed: data is waiting to be sent"),
        Data::InFlight => (
            "data in flight",
            "not probed: data is unacknowledged, retransmission decides",
        ),
    }
}
