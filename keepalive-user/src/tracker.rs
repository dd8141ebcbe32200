//! # The tracker
//!
//! Turns records into events, one small state per socket: which probe is out and when it was
//! answered, how often what happened, what the end was. Reads no clock and does no I/O: time
//! comes in with the records, so a recording gives the same events as the live kernel.

mod probe;
mod socket;
mod table;
mod tell;

pub use self::tell::acting;

use keepalive_ebpf::{
    Identity, KIND_CLOSE, KIND_CLOSING, KIND_ESTABLISHED, KIND_KEEPALIVE_TIMER, KIND_OWNER,
    KIND_SETSOCKOPT, KIND_WINDOW_PROBE, Record, WITHIN_KEEPALIVE_TIMER,
};

use self::{socket::Socket, table::Table, tell::Teller};
use crate::{clock::Clock, event::Event};

/// An event, and what finding its owner takes.
#[derive(Debug)]
pub struct Observation {
    pub event: Event,
    /// Inode number of the socket file, 0 if unknown.
    pub inode: u64,
    /// Id of the cgroup, 0 if unknown.
    pub cgroup: u64,
    /// The process that acted on the socket, if one did: its id and name.
    pub acting: Option<(u32, [u8; 16])>,
    /// Whether no process holds it any more.
    pub orphan: bool,
}

/// All sockets seen and not ended.
pub struct Tracker {
    teller: Teller,
    capacity: usize,
    sockets: Table,
    last_id: u64,
    /// Sockets dropped because the table was full.
    evicted: u64,
}

impl Tracker {
    /// `hz` is the kernel's tick; `capacity` the number of sockets remembered at once.
    pub fn new(hz: u32, clock: Clock, capacity: usize) -> Self {
        Self {
            teller: Teller {
                hz: hz.max(1),
                clock,
            },
            capacity: capacity.max(1),
            sockets: Table::default(),
            last_id: 0,
            evicted: 0,
        }
    }

    /// Sockets dropped from the full table so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Takes one record and adds the events it gives, oldest first.
    pub fn observe(&mut self, record: &Record, events: &mut Vec<Observation>) {
        // The port may not be chosen yet, and nothing has happened that is worth an event.
        if record.kind == KIND_OWNER {
            return;
        }
        let key = record.id.sk;
        let teller = self.teller;
        if let Some(old) = self.sockets.get(key)
            && old.is_another(record)
        {
            teller.report_end(old, events);
            self.sockets.remove(key);
        }
        if record.kind == KIND_CLOSING {
            self.closing(record);
            return;
        }
        let socket = match self.sockets.get(key) {
            Some(socket) if !socket.is_seed => socket,
            _ => self.meet(record, events),
        };
        socket.learn(&record.id, record.after.time);
        teller.report_answer(socket, record, events);
        match record.kind {
            KIND_KEEPALIVE_TIMER => teller.timer(socket, record, events),
            KIND_WINDOW_PROBE => teller.window_probe(socket, record, events),
            KIND_SETSOCKOPT => teller.setsockopt(socket, record, events),
            KIND_ESTABLISHED => teller.established(socket, record, events),
            KIND_CLOSE => socket.end = Some(Box::new(*record)),
            _ => {}
        }
        // An end within a timer run is told after that run.
        let in_timer = record.kind == KIND_CLOSE && record.within == WITHIN_KEEPALIVE_TIMER;
        if socket.end.is_some() && !in_timer {
            teller.report_end(socket, events);
            self.sockets.remove(key);
        }
    }

    /// Reports the ends whose timer run never came, because its record was lost.
    pub fn finish(&mut self, events: &mut Vec<Observation>) {
        for socket in self.sockets.iter_mut() {
            self.teller.report_end(socket, events);
        }
    }

    /// Remembers a socket that is older than the tracer. It is told of when something happens to
    /// it; what it may lose until then, its owner and its cookie, is known from now on.
    pub fn seed(&mut self, id: &Identity, time: u64) {
        let mut socket = Socket::new(0, id, time);
        socket.learn(id, time);
        socket.is_seed = true;
        self.sockets.remove(id.sk);
        self.make_room();
        self.sockets.insert(id.sk, socket);
    }

    /// Notes whose the socket was: from now on it has neither file nor owner.
    fn closing(&mut self, record: &Record) {
        let (id, time) = (&record.id, record.after.time);
        if self.sockets.get(id.sk).is_none() {
            self.seed(id, time);
        }
        if let Some(socket) = self.sockets.get(id.sk) {
            socket.learn(id, time);
            socket.closer = acting(record).map(Box::new);
        }
    }

    /// A socket that no record was of before; at most it was seeded.
    fn meet(&mut self, record: &Record, events: &mut Vec<Observation>) -> &mut Socket {
        self.last_id += 1;
        let (key, time) = (record.id.sk, record.after.time);
        let mut socket = Socket::new(self.last_id, &record.id, time);
        if let Some(seed) = self.sockets.remove(key) {
            socket.inherit(seed);
        }
        socket.learn(&record.id, time);
        self.teller.meet(&socket, record, events);
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
    }
}

#[cfg(test)]
mod tests;
