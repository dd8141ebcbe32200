//! # The tracker
//!
//! Turns records into events, one small state per socket: which probe is out and when it was
//! answered, how often what happened, what the end was. Reads no clock and does no I/O: time
//! comes in with the records, so a recording gives the same events as the live kernel.

mod probe;
mod socket;

use keepalive_ebpf::{
    FLAG_PROCESS_CONTEXT, FLAG_SWITCHING_OFF, FLAG_SWITCHING_ON, Identity, KIND_ACK, KIND_CLOSE,
    KIND_CLOSING, KIND_ESTABLISHED, KIND_KEEPALIVE_TIMER, KIND_SETSOCKOPT, KIND_WINDOW_PROBE,
    Record, WITHIN_KEEPALIVE_TIMER,
};
use rustc_hash::FxHashMap;

use self::{
    probe::{Answered, Outstanding},
    socket::Socket,
};
use crate::{
    arithmetic::{self, Effective, jiffies_to_millis},
    clock::Clock,
    convert,
    decide::{self, Send, decision},
    event::{
        Answer, Armed, ArmedCause, BeforeAfter, Closed, Death, Decision, Errno, Event, ProbeKind,
        SocketEvent, TimerRun, WindowProbe,
    },
    numbers::{rearmed, silence, state, unsent},
};

/// An event, and what finding its owner takes.
#[derive(Debug)]
pub struct Observation {
    pub event: Event,
    /// Inode number of the socket file, 0 if unknown.
    pub inode: u64,
    /// Id of the cgroup, 0 if unknown.
    pub cgroup: u64,
    /// The task that acted on the socket, if one did: process id and name.
    pub acting: Option<(u32, [u8; 16])>,
}

/// All sockets seen and not ended.
pub struct Tracker {
    hz: u32,
    clock: Clock,
    capacity: usize,
    sockets: FxHashMap<u64, Socket>,
    last_id: u64,
    /// Sockets dropped because the table was full.
    evicted: u64,
}

impl Tracker {
    /// `hz` is the kernel's tick; `capacity` the number of sockets remembered at once.
    pub fn new(hz: u32, clock: Clock, capacity: usize) -> Self {
        Self {
            hz: hz.max(1),
            clock,
            capacity: capacity.max(1),
            sockets: FxHashMap::default(),
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
        let key = record.id.sk;
        let reused = self
            .sockets
            .get(&key)
            .is_some_and(|socket| socket.is_another(record));
        if reused && let Some(mut old) = self.sockets.remove(&key) {
            self.report_end(&mut old, events);
        }
        if record.kind == KIND_CLOSING {
            self.closing(record);
            return;
        }
        let mut socket = match self.sockets.remove(&key) {
            Some(socket) if !socket.is_seed => socket,
            seed => self.meet(seed, record, events),
        };
        socket.learn(&record.id, record.after.time);
        self.report_answer(&mut socket, record, events);
        match record.kind {
            KIND_KEEPALIVE_TIMER => self.timer(&mut socket, record, events),
            KIND_WINDOW_PROBE => self.window_probe(&mut socket, record, events),
            KIND_SETSOCKOPT => self.setsockopt(&socket, record, events),
            KIND_ESTABLISHED => self.established(&mut socket, record, events),
            KIND_CLOSE => {
                socket.end = Some(Box::new(*record));
                if record.within != WITHIN_KEEPALIVE_TIMER {
                    self.report_end(&mut socket, events);
                    return;
                }
            }
            _ => {}
        }
        if record.kind == KIND_KEEPALIVE_TIMER && socket.end.is_some() {
            self.report_end(&mut socket, events);
        } else {
            self.make_room();
            self.sockets.insert(key, socket);
        }
    }

    /// Reports the ends whose timer run never came, because its record was lost.
    pub fn finish(&mut self, events: &mut Vec<Observation>) {
        let ended: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.end.is_some())
            .map(|(key, _)| *key)
            .collect();
        for key in ended {
            if let Some(mut socket) = self.sockets.remove(&key) {
                self.report_end(&mut socket, events);
            }
        }
    }

    /// Remembers a socket that is older than the tracer. It is told of when something happens to
    /// it; what it may lose until then, its owner and its cookie, is known from now on.
    pub fn seed(&mut self, id: &Identity, time: u64) {
        self.make_room();
        let mut socket = Socket::new(0, id, time);
        socket.learn(id, time);
        socket.is_seed = true;
        self.sockets.insert(id.sk, socket);
    }

    /// Notes whose the socket was: from now on it has neither file nor owner.
    fn closing(&mut self, record: &Record) {
        let (id, time) = (&record.id, record.after.time);
        if !self.sockets.contains_key(&id.sk) {
            self.seed(id, time);
        }
        if let Some(socket) = self.sockets.get_mut(&id.sk) {
            socket.learn(id, time);
            socket.closer = acting(record);
        }
    }

    /// A socket that no record was of before. If keepalive was on already, that is worth an event.
    fn meet(
        &mut self,
        seed: Option<Socket>,
        record: &Record,
        events: &mut Vec<Observation>,
    ) -> Socket {
        self.last_id += 1;
        let new = Socket::new(self.last_id, &record.id, record.after.time);
        let mut socket = match seed {
            Some(seed) => Socket {
                cookie: seed.cookie,
                inode: seed.inode,
                cgroup: seed.cgroup,
                closer: seed.closer,
                ..new
            },
            None => new,
        };
        socket.learn(&record.id, record.after.time);
        let older =
            record.id.keepopen != 0 && !matches!(record.kind, KIND_SETSOCKOPT | KIND_ESTABLISHED);
        if older {
            let next_ms = match record.kind {
                KIND_KEEPALIVE_TIMER => Some(0),
                KIND_WINDOW_PROBE => None,
                _ => rearmed(&record.after).map(|jiffies| self.millis(jiffies)),
            };
            let what = Armed {
                cause: ArmedCause::Seen,
                next_ms,
            };
            events
                .push(socket.observation(record, Event::Armed(self.about(&socket, record, what))));
        }
        socket
    }

    fn timer(&self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        let (before, after) = (&record.before, &record.after);
        let decision = decision(record, self.hz);
        let effective = Effective::of(record, self.hz);
        let counted = decision == Decision::ProbeSent;
        let attempt = counted.then(|| u32::from(before.probes_out) + 1);
        let next = rearmed(after);
        let silence_now = silence(after);
        let death = next
            .filter(|_| counted)
            .zip(silence_now)
            .and_then(|(next, silence)| {
                let out = attempt.unwrap_or_default();
                self.death(
                    record,
                    arithmetic::keepalive_end(&effective, silence, out, next)?,
                )
            });
        let send = decide::send(record);
        socket.totals.timers += 1;
        if let Some(attempt) = attempt {
            socket.totals.keepalive_probes += 1;
            socket.outstanding = Some(Outstanding::new(record, ProbeKind::Keepalive, attempt));
        }
        let what = TimerRun {
            decision,
            idle_ms: silence(before).map(|jiffies| self.millis(jiffies.into())),
            late_ms: Some(self.millis(before.jiffies.saturating_sub(before.expires))),
            packets_out: before.packets_out,
            unsent_bytes: unsent(before),
            probes_out: probes_out(record),
            attempt,
            attempts: attempt.and((effective.user_timeout == 0).then_some(effective.probes)),
            sent: sent(send),
            send_error: send_error(send),
            next_ms: next.map(|jiffies| self.millis(jiffies)),
            death,
        };
        events.push(socket.observation(record, Event::Timer(self.about(socket, record, what))));
        // The answer can be faster than the exit of the timer.
        if counted && after.probes_out == 0 {
            let answered = socket.outstanding.take_if(|probe| probe.is_answered(after));
            if let Some(probe) = answered {
                self.report_answered(socket, record, probe.answered(after, self.hz), events);
            }
        }
    }

    fn window_probe(&self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        let after = &record.after;
        // The window opened meanwhile: `tcp_write_wakeup` sent data, and no probe was counted.
        if after.probes_out == 0 && after.packets_out > 0 {
            return;
        }
        let attempt = u32::from(record.before.probes_out) + 1;
        let next = rearmed(after);
        let effective = Effective::of(record, self.hz);
        let death = next
            .and_then(|next| self.death(record, arithmetic::window_end(&effective, after, next)?));
        let send = decide::send(record);
        socket.totals.window_probes += 1;
        socket.outstanding = Some(Outstanding::new(record, ProbeKind::Window, attempt));
        let what = WindowProbe {
            probes_out: probes_out(record),
            backoff: after.backoff.into(),
            unsent_bytes: unsent(after),
            sent: sent(send),
            send_error: send_error(send),
            next_ms: next.map(|jiffies| self.millis(jiffies)),
            death,
        };
        events
            .push(socket.observation(record, Event::WindowProbe(self.about(socket, record, what))));
    }

    fn setsockopt(&self, socket: &Socket, record: &Record, events: &mut Vec<Observation>) {
        let on = record.flags & FLAG_SWITCHING_ON != 0;
        let off = record.flags & FLAG_SWITCHING_OFF != 0;
        let next = match rearmed(&record.after) {
            _ if off => None,
            // `tcp_set_keepalive` is seen before it arms the timer, for the full time.
            None if on => Some(Effective::of(record, self.hz).time.into()),
            next => next,
        };
        let what = Armed {
            cause: ArmedCause::Setsockopt,
            next_ms: next.map(|jiffies| self.millis(jiffies)),
        };
        let mut event = self.about(socket, record, what);
        event.keepalive.enabled = on || (event.keepalive.enabled && !off);
        let mut observation = socket.observation(record, Event::Armed(event));
        observation.acting = acting(record);
        events.push(observation);
    }

    /// `tcp_finish_connect` and `tcp_create_openreq_child` arm the timer for the full time.
    fn established(&self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        socket.established = record.after.time;
        let cause = match record.from_state {
            state::SYN_SENT => ArmedCause::Connect,
            _ => ArmedCause::Accept,
        };
        let time = Effective::of(record, self.hz).time;
        let what = Armed {
            cause,
            next_ms: Some(self.millis(time.into())),
        };
        events.push(socket.observation(record, Event::Armed(self.about(socket, record, what))));
    }

    /// If the record shows that the outstanding probe was answered, says so first.
    fn report_answer(&self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        let Some(probe) = socket.outstanding else {
            return;
        };
        let answered = if record.kind == KIND_ACK {
            // Seen at the exit of `tcp_ack`, live.
            Some(probe.answered_at(record.after.time))
        } else {
            let seen = match record.kind {
                KIND_KEEPALIVE_TIMER | KIND_WINDOW_PROBE => &record.before,
                _ => &record.after,
            };
            probe
                .is_answered(seen)
                .then(|| probe.answered(seen, self.hz))
        };
        if let Some(answered) = answered {
            socket.outstanding = None;
            self.report_answered(socket, record, answered, events);
        }
    }

    fn report_answered(
        &self,
        socket: &mut Socket,
        record: &Record,
        answered: Answered,
        events: &mut Vec<Observation>,
    ) {
        match answered.probe {
            ProbeKind::Keepalive => socket.totals.keepalive_answers += 1,
            ProbeKind::Window => socket.totals.window_answers += 1,
        }
        let rtt_us = answered.rtt.map(|(rtt, _)| rtt);
        socket.totals.worst_rtt_us = socket.totals.worst_rtt_us.max(rtt_us);
        let what = Answer {
            probe: answered.probe,
            attempt: answered.attempt,
            rtt_us,
            precision: answered.rtt.map(|(_, precision)| precision),
        };
        let mut event = self.about(socket, record, what);
        event.when = self.clock.at(answered.time);
        events.push(socket.observation(record, Event::Answer(event)));
    }

    /// The death certificate.
    fn report_end(&self, socket: &mut Socket, events: &mut Vec<Observation>) {
        let Some(record) = socket.end.take() else {
            return;
        };
        let record = &*record;
        let since = |start: u64| record.after.time.saturating_sub(start) / 1_000_000;
        let what = Closed {
            cause: decide::cause(record, self.hz),
            error: (record.id.error != 0).then_some(Errno(record.id.error)),
            from_state: convert::tcp_state(record.from_state),
            idle_ms: silence(&record.after).map(|jiffies| self.millis(jiffies.into())),
            lifetime_ms: (socket.established != 0).then(|| since(socket.established)),
            watched_ms: since(socket.first_seen),
            probes_out: record.after.probes_out.into(),
            retransmits: record.after.retransmits.into(),
            totals: socket.totals,
        };
        let closed = Event::Closed(self.about(socket, record, what));
        let mut observation = socket.observation(record, closed);
        observation.acting = socket.closer;
        events.push(observation);
    }

    /// An event of this socket, its owner to be found later.
    fn about<T>(&self, socket: &Socket, record: &Record, what: T) -> SocketEvent<T> {
        SocketEvent {
            when: self.clock.at(record.after.time),
            socket: convert::socket(socket.id, socket.cookie, &record.id),
            process: None,
            cgroup: None,
            container_id: None,
            keepalive: convert::keepalive(&record.settings, record.id.keepopen != 0, true, self.hz),
            what,
        }
    }

    fn death(&self, record: &Record, end: arithmetic::End) -> Option<Death> {
        let in_ms = self.millis(end.after);
        let at = record
            .after
            .time
            .checked_add(in_ms.checked_mul(1_000_000)?)?;
        Some(Death {
            in_ms,
            at: self.clock.at(at).timestamp,
            rule: end.rule,
        })
    }

    fn millis(&self, jiffies: u64) -> u64 {
        jiffies_to_millis(jiffies, self.hz)
    }

    /// Drops the least recently seen sixteenth when the table is full.
    fn make_room(&mut self) {
        if self.sockets.len() < self.capacity {
            return;
        }
        let mut ages: Vec<u64> = self
            .sockets
            .values()
            .map(|socket| socket.last_seen)
            .collect();
        let share = self.capacity.div_ceil(16) - 1;
        let (_, &mut limit, _) = ages.select_nth_unstable(share.min(self.capacity - 1));
        let before = self.sockets.len();
        self.sockets.retain(|_, socket| socket.last_seen > limit);
        self.evicted += (before - self.sockets.len()) as u64;
    }
}

/// The task that a record is of an action of.
fn acting(record: &Record) -> Option<(u32, [u8; 16])> {
    (record.flags & FLAG_PROCESS_CONTEXT != 0).then_some((record.tgid, record.comm))
}

fn probes_out(record: &Record) -> BeforeAfter {
    BeforeAfter {
        before: record.before.probes_out.into(),
        after: record.after.probes_out.into(),
    }
}

fn sent(send: Send) -> Option<bool> {
    match send {
        Send::Sent => Some(true),
        Send::Failed(_) | Send::Dropped => Some(false),
        Send::Unknown => None,
    }
}

fn send_error(send: Send) -> Option<Errno> {
    match send {
        Send::Failed(errno) => Some(Errno(errno)),
        Send::Sent | Send::Dropped | Send::Unknown => None,
    }
}

#[cfg(test)]
mod tests;
