//! What a record means for a socket: the events that follow from both.

use keepalive_ebpf::{Kind, Record, RecordFlags, TcpSample};

use super::{
    Acting, Observation,
    continuity::beginning,
    probe::{Answered, Outcome, Outstanding},
    socket::{Closer, Socket},
};
use crate::core::{
    arithmetic::{self, Effective, jiffies_to_millis},
    clock::WallClock,
    convert,
    decisions::{self, Send, decision},
    event::{
        Answer, Armed, ArmedCause, BeforeAfter, Cause, Closed, ClosedBy, Death, Decision, Errno,
        Event, ProbeKind, SendRetry, SocketEvent, TimerRun, WindowProbe,
    },
    kernel::state,
    sample::{data_unsent, may_send, rearmed, retransmitting, silence, undelivered},
};

/// The context for interpreting a record: the kernel's ticks per second, and the clock.
#[derive(Clone, Copy)]
pub struct Interpreter {
    pub hz: u32,
    pub clock: WallClock,
}

impl Interpreter {
    /// The first record of a socket. If keepalive was on already, an event reports it.
    pub fn first_seen(
        self,
        socket: &Socket,
        kind: Kind,
        record: &Record,
        events: &mut Vec<Observation>,
    ) {
        // A socket that never got established is no older than its SYN.
        let connecting = matches!(record.from_state, state::SYN_SENT | state::SYN_RECV);
        let older = record.id.keepopen
            && !connecting
            && !matches!(kind, Kind::Setsockopt | Kind::Established);
        if older {
            let next_ms = match kind {
                Kind::KeepaliveTimer => Some(0),
                Kind::WindowProbe => None,
                Kind::Setsockopt
                | Kind::Established
                | Kind::Close
                | Kind::Ack
                | Kind::Closing
                | Kind::Polled
                | Kind::Owner
                | Kind::Listed => rearmed(&record.after).map(|jiffies| self.millis(jiffies)),
            };
            let what = Armed {
                cause: ArmedCause::Seen,
                next_ms,
                idle_ms: self.idle(&record.after),
            };
            events.push(socket.observation(record, Event::Armed(self.about(socket, record, what))));
        }
    }

    pub fn timer(self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
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
        let send = decisions::send(record);
        socket.tally.timers += 1;
        if let Some(attempt) = attempt {
            socket.tally.keepalive_probes += 1;
            let previous = socket.outstanding;
            let probe = Outstanding::new(
                record,
                ProbeKind::Keepalive,
                attempt,
                previous,
                socket.unresolved,
                self.hz,
            );
            socket.outstanding = Some(probe);
        }
        let what = TimerRun {
            decision,
            idle_ms: self.idle(before),
            late_ms: Some(self.millis(before.jiffies.saturating_sub(before.expires))),
            packets_out: before.packets_out,
            unsent_bytes: data_unsent(before),
            probes_out: probes_out(record),
            attempt,
            attempts: attempt.and((effective.user_timeout == 0).then_some(effective.probes)),
            sent: sent(send),
            send_error: send_error(send),
            outage: attempt.and_then(|_| decisions::outage(record)),
            next_ms: next.map(|jiffies| self.millis(jiffies)),
            death,
        };
        events.push(socket.observation(record, Event::Timer(self.about(socket, record, what))));
        // The answer can arrive before the exit of the timer.
        if counted && after.probes_out == 0 {
            self.resolve(socket, record, after, events);
        }
    }

    pub fn window_probe(self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        let after = &record.after;
        if may_send(&record.before) {
            // The first try, if it succeeds, is nothing special: the window was small.
            if record.before.probes_out > 0 || after.packets_out == 0 {
                self.send_retry(socket, record, events);
            }
            return;
        }
        // The window opened in the meantime: `tcp_write_wakeup` sent data, and no probe was counted.
        if after.probes_out == 0 && after.packets_out > 0 {
            return;
        }
        let attempt = u32::from(record.before.probes_out) + 1;
        let next = rearmed(after);
        let effective = Effective::of(record, self.hz);
        let end = |next| arithmetic::persist_end(&effective, after, next, self.hz);
        let death = next.and_then(|next| self.death(record, end(next)?));
        let send = decisions::send(record);
        socket.tally.window_probes = socket.tally.window_probes.saturating_add(1);
        let previous = socket.outstanding;
        let probe = Outstanding::new(
            record,
            ProbeKind::Window,
            attempt,
            previous,
            socket.unresolved,
            self.hz,
        );
        socket.outstanding = Some(probe);
        let what = WindowProbe {
            probes_out: probes_out(record),
            backoff: after.backoff.into(),
            unsent_bytes: data_unsent(after),
            sent: sent(send),
            send_error: send_error(send),
            outage: decisions::outage(record),
            next_ms: next.map(|jiffies| self.millis(jiffies)),
            death,
        };
        events
            .push(socket.observation(record, Event::WindowProbe(self.about(socket, record, what))));
    }

    /// `tcp_write_wakeup` sends data if the peer's window has room for it.
    fn send_retry(self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        let after = &record.after;
        let next = rearmed(after);
        let effective = Effective::of(record, self.hz);
        let end = |next| arithmetic::persist_end(&effective, after, next, self.hz);
        let death = next.and_then(|next| self.death(record, end(next)?));
        let send = decisions::send(record);
        let what = SendRetry {
            retries: probes_out(record),
            unsent_bytes: data_unsent(&record.before),
            sent: sent(send),
            send_error: send_error(send),
            outage: decisions::outage(record),
            next_ms: next.map(|jiffies| self.millis(jiffies)),
            death,
        };
        events.push(socket.observation(record, Event::SendRetry(self.about(socket, record, what))));
    }

    pub fn setsockopt(self, socket: &Socket, record: &Record, events: &mut Vec<Observation>) {
        let on = record.flags.contains(RecordFlags::SWITCHING_ON);
        let off = record.flags.contains(RecordFlags::SWITCHING_OFF);
        let next = match rearmed(&record.after) {
            _ if off => None,
            // The hook runs before `tcp_set_keepalive` arms the timer for the full time.
            None if on => Some(Effective::of(record, self.hz).time.into()),
            next => next,
        };
        let what = Armed {
            cause: ArmedCause::Setsockopt,
            next_ms: next.map(|jiffies| self.millis(jiffies)),
            idle_ms: self.idle(&record.after),
        };
        let mut event = self.about(socket, record, what);
        event.keepalive.enabled = on || (event.keepalive.enabled && !off);
        let mut observation = socket.observation(record, Event::Armed(event));
        observation.acting = acting(record);
        events.push(observation);
    }

    /// SO_KEEPALIVE is off although no record reported the change: the tracepoint backend does not observe it.
    pub fn switched_off(self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        let is_probing = socket
            .outstanding
            .is_some_and(|probe| !probe.is_of_window());
        if record.id.keepopen || !is_probing {
            return;
        }
        socket.outstanding = None;
        let what = Armed {
            cause: ArmedCause::Setsockopt,
            next_ms: None,
            idle_ms: self.idle(&record.after),
        };
        events.push(socket.observation(record, Event::Armed(self.about(socket, record, what))));
    }

    /// `tcp_finish_connect` and `tcp_create_openreq_child` arm the timer for the full time.
    pub fn established(self, socket: &mut Socket, record: &Record, events: &mut Vec<Observation>) {
        socket.established = record.after.time;
        let cause = match record.from_state {
            state::SYN_SENT => ArmedCause::Connect,
            _ => ArmedCause::Accept,
        };
        let time = Effective::of(record, self.hz).time;
        let what = Armed {
            cause,
            next_ms: Some(self.millis(time.into())),
            idle_ms: self.idle(&record.after),
        };
        events.push(socket.observation(record, Event::Armed(self.about(socket, record, what))));
    }

    /// Reports an answer to the outstanding probes, if the beginning of the record shows one. At the exit of
    /// `tcp_ack` (`--live-answers`) its end does.
    pub fn report_answer(
        self,
        socket: &mut Socket,
        record: &Record,
        events: &mut Vec<Observation>,
    ) {
        let seen = match record.kind {
            Kind::Ack => &record.after,
            Kind::KeepaliveTimer
            | Kind::WindowProbe
            | Kind::Setsockopt
            | Kind::Established
            | Kind::Close
            | Kind::Closing
            | Kind::Owner
            | Kind::Polled
            | Kind::Listed => beginning(record),
        };
        self.resolve(socket, record, seen, events);
    }

    /// Resolves the outstanding probes by a sample of the record.
    fn resolve(
        self,
        socket: &mut Socket,
        record: &Record,
        seen: &TcpSample,
        events: &mut Vec<Observation>,
    ) {
        let Some(probe) = socket.outstanding else {
            return;
        };
        match probe.outcome(seen, self.hz) {
            Outcome::Outstanding => {}
            Outcome::Heard => socket.outstanding = None,
            Outcome::Answered(answered) => {
                socket.outstanding = None;
                if answered.earlier > 0 {
                    socket.unresolved = probe.sent;
                }
                self.report_answered(socket, record, answered, events);
            }
        }
    }

    fn report_answered(
        self,
        socket: &mut Socket,
        record: &Record,
        answered: Answered,
        events: &mut Vec<Observation>,
    ) {
        match answered.probe {
            ProbeKind::Keepalive => socket.tally.keepalive_answers += 1,
            ProbeKind::Window => {
                let answers = &mut socket.tally.window_answers;
                *answers = answers.saturating_add(1);
            }
        }
        let rtt_us = answered.rtt.map(|(rtt, _)| rtt);
        if let Some(rtt_us) = rtt_us {
            socket.tally.answered_after(rtt_us);
        }
        let unresolved = &mut socket.tally.unresolved;
        *unresolved = unresolved.saturating_add(answered.earlier);
        let what = Answer {
            probe: answered.probe,
            attempt: answered.attempt,
            earlier: answered.earlier,
            reported_after_ms: record.after.time.saturating_sub(answered.time) / 1_000_000,
            rtt_us,
            precision: answered.rtt.map(|(_, precision)| precision),
        };
        let mut event = self.about(socket, record, what);
        event.when = self.clock.at(answered.time);
        events.push(socket.observation(record, Event::Answer(event)));
    }

    /// The death certificate. It is not dated before the socket's last event.
    pub fn report_end(self, socket: &mut Socket, events: &mut Vec<Observation>) {
        let Some(record) = socket.end.take() else {
            return;
        };
        let record = &*record;
        let acts = record.flags.contains(RecordFlags::PROCESS_CONTEXT);
        let closer = match socket.closer.as_deref() {
            _ if acts => Some(Closer::of(record)),
            closer => closer.copied(),
        };
        let what = self.certificate(socket, record, closer);
        // The process that aborts it from outside is not its owner.
        let by_owner = what.cause != Cause::OutsideAbort;
        let mut event = self.about(socket, record, what);
        event.when = self.clock.at(record.after.time.max(socket.last_seen));
        let mut observation = socket.observation(record, Event::Closed(event));
        observation.acting = closer.and_then(|closer| closer.acting).filter(|_| by_owner);
        events.push(observation);
    }

    fn certificate(self, socket: &Socket, record: &Record, closer: Option<Closer>) -> Closed {
        let since = |start: u64| record.after.time.saturating_sub(start) / 1_000_000;
        let cause = decisions::cause(record, closer.and_then(|closer| closer.signal), self.hz);
        let last_data = closer.and_then(|closer| closer.last_data);
        Closed {
            cause,
            // No process holds an orphan.
            error: (record.id.error != 0 && !record.id.orphan).then_some(Errno(record.id.error)),
            from_state: convert::tcp_state(record.from_state),
            orphan: record.id.orphan,
            closed_by: closer.and_then(closed_by),
            undelivered_bytes: undelivered(record),
            retransmitting_ms: retransmitting(&record.after),
            probing_ms: socket.outstanding.map(|probe| since(probe.first_sent)),
            last_probe_ms: socket.outstanding.map(|probe| since(probe.sent)),
            outage: match socket.outstanding {
                _ if may_send(&record.after) => decisions::outage(record),
                probe => probe.and_then(|probe| probe.outage()),
            },
            idle_ms: self.idle(&record.after),
            lifetime_ms: (socket.established != 0).then(|| since(socket.established)),
            watched_ms: since(socket.first_seen),
            probes_out: record.after.probes_out.into(),
            retransmits: record.after.retransmits.into(),
            last_data_ms: last_data.map(|jiffies| self.millis(jiffies.into())),
            totals: socket.tally.into(),
        }
    }

    /// An event of this socket; its owner is filled in later.
    fn about<T>(self, socket: &Socket, record: &Record, what: T) -> SocketEvent<T> {
        SocketEvent {
            when: self.clock.at(record.after.time),
            socket: convert::socket(socket.id, socket.cookie, &record.id),
            process: None,
            cgroup: None,
            container_id: None,
            keepalive: convert::keepalive(&record.settings, record.id.keepopen, true, self.hz),
            what,
        }
    }

    fn death(self, record: &Record, end: arithmetic::ConnectionEnd) -> Option<Death> {
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

    /// Silence of the peer, milliseconds.
    fn idle(self, sample: &TcpSample) -> Option<u64> {
        silence(sample).map(|jiffies| self.millis(jiffies.into()))
    }

    fn millis(self, jiffies: u64) -> u64 {
        jiffies_to_millis(jiffies, self.hz)
    }
}

/// The process that acted, if the record is of an action of a process.
pub fn acting(record: &Record) -> Option<Acting> {
    (record.flags.contains(RecordFlags::PROCESS_CONTEXT)).then_some((record.tgid, record.comm))
}

fn closed_by(closer: Closer) -> Option<ClosedBy> {
    let (pid, comm) = closer.acting?;
    Some(ClosedBy {
        pid,
        comm: convert::comm(&comm),
        exiting: closer.exiting,
        signal: closer.signal,
    })
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
