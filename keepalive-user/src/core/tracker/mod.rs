//! # The tracker
//!
//! Turns records into events. It keeps a small state per socket: which probe is outstanding and when it
//! was answered, the event counts, and the end. Reads no clock and does no I/O: time
//! comes in with the records, so a recording gives the same events as the live kernel.

mod continuity;
mod interpreter;
mod looks;
mod probe;
mod socket;
mod table;
mod unseen;

pub use self::interpreter::acting;

use std::collections::VecDeque;

use keepalive_ebpf::{Identity, Kind, Record, TcpSample, Within};

pub use self::unseen::Unseen;
use self::{
    continuity::{Continuity, beginning, may_be_running, missed_probes},
    interpreter::Interpreter,
    looks::Looks,
    probe::Outcome,
    socket::{Closer, Socket},
    table::Table,
};
use crate::core::{
    clock::{Clock, WallClock},
    event::{Event, MissedCounts, Sysctl, UnaffectedSockets},
    kernel::state,
    sample::{rearmed, silence},
};

/// The process that acts on a socket: its id and its name (`task_struct.comm`), NUL-terminated.
pub type Acting = (u32, [u8; 16]);

/// An event, and what the resolution of its owner needs.
#[derive(Debug)]
pub struct Observation {
    pub event: Event,
    /// Inode number of the socket file, 0 if unknown.
    pub inode: u64,
    /// Id of the cgroup, 0 if unknown.
    pub cgroup: u64,
    /// The process that acted on the socket, if one did: its id and name.
    pub acting: Option<Acting>,
    /// Whether the owner can no longer change: the process has exited, or no process holds the socket.
    /// Its last owner may have closed it in the meantime.
    pub settled: bool,
}

/// The end of one socket.
const CLOSE: MissedCounts = MissedCounts {
    probe: 0,
    window_probe: 0,
    timer: 0,
    close: 1,
    unread: 0,
};

/// Maximum number of ends that wait for their timer run: more than a machine has CPUs.
const ENDINGS: usize = 1 << 13;

/// All sockets that were seen and have not ended.
pub struct Tracker {
    interpreter: Interpreter,
    capacity: usize,
    sockets: Table,
    last_id: u64,
    /// Sockets whose end waits for the timer run that caused it, oldest first: address and id. Those that
    /// were reported since are removed when they are the oldest.
    ending: VecDeque<(u64, u64)>,
    /// Sockets dropped because the table was full.
    evicted: u64,
    /// When the programs were attached, CLOCK_MONOTONIC, nanoseconds.
    start: u64,
    /// The time of the latest record, CLOCK_MONOTONIC, and the jiffies at that time.
    now: (u64, u64),
    unseen: Unseen,
    /// Sockets to look at for an answer; `None` if nothing reads them (replay).
    looks: Option<Looks>,
}

impl Tracker {
    /// `hz` is the kernel's ticks per second; `capacity` the maximum number of sockets; `start` the time at
    /// which the programs were attached, CLOCK_MONOTONIC, nanoseconds.
    pub fn new(hz: u32, clock: Clock, capacity: usize, start: u64) -> Self {
        Self {
            interpreter: Interpreter {
                hz: hz.max(1),
                clock: WallClock::new(clock),
            },
            capacity: capacity.max(1),
            sockets: Table::default(),
            last_id: 0,
            ending: VecDeque::new(),
            evicted: 0,
            start,
            now: (0, 0),
            unseen: Unseen::default(),
            looks: None,
        }
    }

    /// From now on the sockets that [`Tracker::looks`] names are read, and the records observed.
    pub fn expect_looks(&mut self) {
        self.looks = Some(Looks::default());
    }

    /// When sockets have to be read next for the answers to their probes, CLOCK_MONOTONIC, nanoseconds.
    pub fn next_look(&self) -> Option<u64> {
        self.looks.as_ref().and_then(Looks::next)
    }

    /// Addresses of at most `most` sockets to read now. `time`: now, CLOCK_MONOTONIC.
    pub fn looks(&mut self, time: u64, most: usize) -> Vec<u64> {
        let Some(looks) = &mut self.looks else {
            return Vec::new();
        };
        looks.take(time, most, |key, sent| {
            let probe = self.sockets.get(key).and_then(|socket| socket.outstanding);
            probe.is_some_and(|probe| probe.sent == sent)
        })
    }

    /// Whether a reading of a socket shows nothing new: its probe is still unanswered, and its timer is not
    /// due.
    pub fn is_redundant(&mut self, record: &Record) -> bool {
        let hz = self.interpreter.hz;
        let Some(socket) = self.sockets.get(record.id.sk) else {
            return false;
        };
        let is_due = socket
            .continuity
            .is_none_or(|continuity| continuity.is_due(record.after.jiffies as u32));
        let is_unanswered = socket
            .outstanding
            .is_some_and(|probe| probe.outcome(&record.after, hz) == Outcome::Outstanding);
        record.kind == Kind::Polled
            && record.id.state != state::CLOSE
            && !is_due
            && is_unanswered
            && (record.id.keepopen || socket.outstanding.is_some_and(|probe| probe.is_of_window()))
            && !socket.is_another(record)
    }

    /// The kernel's ticks per second; at least 1.
    pub fn hz(&self) -> u32 {
        self.interpreter.hz
    }

    /// Later events have these wall-clock times.
    pub fn set_clock(&mut self, clock: WallClock) {
        self.interpreter.clock = clock;
    }

    /// Sockets dropped from the full table so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Processes one record and appends its events, oldest first.
    pub fn observe(&mut self, record: &Record, events: &mut Vec<Observation>) {
        let kind = record.kind;
        // The port may not be chosen yet, and no event is due.
        if kind == Kind::Owner {
            return;
        }
        let key = record.id.sk;
        let interpreter = self.interpreter;
        self.now = self.now.max((record.after.time, record.after.jiffies));
        if kind == Kind::Polled {
            self.polled(record, events);
            return;
        }
        if let Some(old) = self.sockets.get(key)
            && old.is_another(record)
        {
            if old.end.is_none() && !old.is_seed {
                self.unseen.add(CLOSE, old.last_seen);
            }
            interpreter.report_end(old, events);
            self.sockets.remove(key);
        }
        self.compare(record);
        if kind == Kind::Closing {
            self.closing(record);
            return;
        }
        let socket = match self.sockets.get(key) {
            Some(socket) if !socket.is_seed => socket,
            _ => self.first_seen(kind, record, events),
        };
        socket.advance(record, interpreter.hz);
        socket.learn(&record.id, record.after.time);
        interpreter.report_answer(socket, record, events);
        let before = socket.outstanding.map(|probe| probe.sent);
        match kind {
            Kind::KeepaliveTimer => interpreter.timer(socket, record, events),
            Kind::WindowProbe => interpreter.window_probe(socket, record, events),
            Kind::Setsockopt => interpreter.setsockopt(socket, record, events),
            Kind::Established => interpreter.established(socket, record, events),
            Kind::Close => socket.end = Some(Box::new(*record)),
            Kind::Ack | Kind::Closing | Kind::Polled | Kind::Owner | Kind::Listed => {}
        }
        let sent = socket.outstanding.map(|probe| probe.sent);
        // A timer that runs again within a second shows the answer as soon.
        let is_soon = rearmed(&record.after).is_some_and(|left| left <= interpreter.hz.into());
        let probed = sent.filter(|_| sent != before && !is_soon);
        // An end within a timer run is reported after that run.
        let in_timer = kind == Kind::Close && record.within == Within::KeepaliveTimer;
        if socket.end.is_some() && !in_timer {
            interpreter.report_end(socket, events);
            self.sockets.remove(key);
        } else if in_timer {
            let id = socket.id;
            self.ending.push_back((key, id));
            self.bound_endings(events);
        }
        if let (Some(looks), Some(sent)) = (&mut self.looks, probed) {
            looks.probed(key, sent);
        }
    }

    /// An end waits for its timer run, which is running on some CPU: if more ends wait than there are
    /// CPUs, records of runs were lost, and the oldest end is reported without its run.
    fn bound_endings(&mut self, events: &mut Vec<Observation>) {
        while let Some(&(key, id)) = self.ending.front() {
            let waiting = |socket: &&mut Socket| socket.id == id && socket.end.is_some();
            if let Some(socket) = self.sockets.get(key).filter(waiting) {
                if self.ending.len() <= ENDINGS {
                    return;
                }
                self.interpreter.report_end(socket, events);
                self.sockets.remove(key);
            }
            self.ending.pop_front();
        }
    }

    /// Reports the ends whose timer run never arrived because its record was lost.
    pub fn finish(&mut self, events: &mut Vec<Observation>) {
        for socket in self.sockets.iter_mut() {
            self.interpreter.report_end(socket, events);
        }
    }

    /// Remembers a socket that is older than the tracer. It is reported at its first event. Its owner and
    /// its cookie are stored now, because it may lose them until then. With a sample, unseen actions are
    /// detected from now on, too.
    pub fn seed(&mut self, id: &Identity, time: u64, sample: Option<&TcpSample>) {
        // Its records may have arrived first.
        if let Some(known) = self.sockets.get(id.sk)
            && !known.is_seed
            && (known.is_same(id) || known.last_seen >= time)
        {
            return;
        }
        if let Some(sample) = sample {
            self.now = self.now.max((sample.time, sample.jiffies));
        }
        let mut socket = Socket::new(0, id, time);
        socket.learn(id, time);
        socket.is_seed = true;
        socket.continuity = sample.map(Continuity::of);
        self.sockets.remove(id.sk);
        self.make_room();
        self.sockets.insert(id.sk, socket);
    }

    /// Whether an event of exactly this socket was reported.
    pub fn knows(&mut self, id: &Identity) -> bool {
        let known = self.sockets.get(id.sk);
        known.is_some_and(|known| !known.is_seed && known.is_same(id))
    }

    /// Since when exactly this socket is known, CLOCK_MONOTONIC, nanoseconds; `None` if it is not.
    pub fn known_since(&mut self, id: &Identity) -> Option<u64> {
        let known = self.sockets.get(id.sk).filter(|known| known.is_same(id));
        known.map(|known| known.first_seen)
    }

    /// The sockets of a namespace that do not use a new value of a sysctl at once.
    pub fn unaffected(&self, netns: u32, sysctl: Sysctl) -> UnaffectedSockets {
        let mut found = UnaffectedSockets::default();
        for socket in self.sockets.iter().filter(|it| it.netns == netns) {
            found.tracked += 1;
            let is_armed = |continuity: &Continuity| continuity.is_armed();
            found.armed += u64::from(socket.continuity.as_ref().is_some_and(is_armed));
            found.own += u64::from(socket.own.replaces(sysctl));
        }
        found
    }

    /// What no program saw so far.
    pub fn unseen(&mut self) -> &mut Unseen {
        &mut self.unseen
    }

    /// Addresses of sockets whose timer should have run `grace` seconds ago, without any record since;
    /// without a grace, of all sockets whose deadline has passed. `time`: now, CLOCK_MONOTONIC.
    pub fn overdue(&self, time: u64, grace: Option<u32>) -> impl Iterator<Item = u64> {
        let hz = self.interpreter.hz;
        let passed = u128::from(time.saturating_sub(self.now.0)) * u128::from(hz) / 1_000_000_000;
        let now = self.now.1.wrapping_add(passed as u64) as u32;
        self.sockets.keys(move |socket| {
            let continuity = socket.continuity.filter(|_| socket.end.is_none());
            continuity.is_some_and(|continuity| match grace {
                Some(seconds) => continuity.is_overdue(now, seconds.saturating_mul(hz)),
                None => continuity.is_due(now),
            })
        })
    }

    /// The socket no longer exists, and its end was not seen.
    pub fn gone(&mut self, key: u64) {
        // The end of a socket known only from the listing may have been seen before the listing was made.
        if let Some(socket) = self.sockets.remove(key).filter(|socket| !socket.is_seed) {
            self.unseen.add(CLOSE, socket.last_seen);
        }
    }

    /// The present state of a socket that was overdue.
    fn polled(&mut self, record: &Record, events: &mut Vec<Observation>) {
        let key = record.id.sk;
        let Some(socket) = self.sockets.get(key).filter(|socket| socket.end.is_none()) else {
            return;
        };
        let is_closed = record.id.state == state::CLOSE;
        if socket.is_another(record) || (socket.is_seed && is_closed) {
            self.gone(key);
            return;
        }
        let interpreter = self.interpreter;
        if may_be_running(record, interpreter.hz) {
            return;
        }
        // A zero-window probe may be under way: its record has not arrived yet.
        let probes_window = socket.outstanding.is_some_and(|probe| probe.is_of_window());
        if !probes_window {
            self.compare(record);
        }
        let Some(socket) = self.sockets.get(key) else {
            return;
        };
        let since = socket.last_seen;
        socket.advance(record, interpreter.hz);
        socket.learn(&record.id, record.after.time);
        interpreter.report_answer(socket, record, events);
        if !is_closed {
            interpreter.switched_off(socket, record, events);
        }
        if is_closed {
            self.unseen.add(CLOSE, since);
            socket.end = Some(Box::new(*record));
            interpreter.report_end(socket, events);
            self.sockets.remove(key);
        }
    }

    /// Counts what the socket of a record did unseen since the previous record.
    fn compare(&mut self, record: &Record) {
        let (first, hz) = (beginning(record), self.interpreter.hz);
        match self.sockets.get(record.id.sk) {
            Some(socket) => {
                let since = socket.last_seen;
                let missed = socket
                    .continuity
                    .filter(|_| first.time >= since)
                    .map(|continuity| continuity.missed(record, hz));
                self.unseen.add(missed.unwrap_or_default(), since);
            }
            // A new socket with probes outstanding since the peer was last heard: if that is later than the
            // start of the trace, the trace missed them.
            None if first.probes_out > 0 => {
                let jiffy = 1_000_000_000 / u64::from(hz);
                let silence = silence(first).map(|silence| (u64::from(silence) + 1) * jiffy);
                let heard = silence.map(|silence| first.time.saturating_sub(silence));
                if let Some(heard) = heard.filter(|heard| *heard >= self.start) {
                    self.unseen
                        .add(missed_probes(first.probes_out.into(), first), heard);
                }
            }
            None => {}
        }
    }

    /// Records the owner of the socket: from now on it has no file and no owner.
    fn closing(&mut self, record: &Record) {
        let (id, time) = (&record.id, record.after.time);
        if self.sockets.get(id.sk).is_none() {
            self.seed(id, time, None);
        }
        if let Some(socket) = self.sockets.get(id.sk) {
            socket.advance(record, self.interpreter.hz);
            socket.learn(id, time);
            socket.closer = Some(Box::new(Closer::of(record)));
        }
    }

    /// The first record of a socket, which may have been seeded before.
    fn first_seen(
        &mut self,
        kind: Kind,
        record: &Record,
        events: &mut Vec<Observation>,
    ) -> &mut Socket {
        self.last_id += 1;
        let (key, time) = (record.id.sk, record.after.time);
        let mut socket = Socket::new(self.last_id, &record.id, time);
        if let Some(seed) = self.sockets.remove(key) {
            socket.inherit(seed);
        }
        socket.learn(&record.id, time);
        self.interpreter.first_seen(&socket, kind, record, events);
        self.make_room();
        self.sockets.insert(key, socket)
    }

    /// Drops the least recently seen sixteenth when the table is full.
    fn make_room(&mut self) {
        if self.sockets.len() < self.capacity {
            return;
        }
        let mut ages: Vec<u64> = self
            .sockets
            .iter_mut()
            .map(|socket| socket.last_seen)
            .collect();
        let share = self.capacity.div_ceil(16) - 1;
        let (_, &mut limit, _) = ages.select_nth_unstable(share.min(self.capacity - 1));
        let before = self.sockets.len();
        self.sockets.retain(|socket| socket.last_seen > limit);
        self.evicted += (before - self.sockets.len()) as u64;
        // Earlier observations of a dropped socket are forgotten; that does not count as missed.
        self.start = self.start.max(limit);
    }
}

#[cfg(test)]
mod tests;
