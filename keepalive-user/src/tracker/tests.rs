//! What the tracker keeps between records: reuse of addresses, eviction, live answers.

use keepalive_ebpf::{FLAG_WAKEUP_SEEN, FLAG_WAKEUP_WATCHED};

use super::*;
use crate::event::{Cause, Precision};

const HZ: u32 = 1000;
const CLOCK: Clock = Clock { offset_ns: 0 };

fn tracker(capacity: usize) -> Tracker {
    Tracker::new(HZ, CLOCK, capacity)
}

/// A probe of the socket at `sk`, at a time in milliseconds.
fn probe(sk: u64, ms: u64) -> Record {
    let mut record = Record {
        kind: KIND_KEEPALIVE_TIMER,
        flags: FLAG_WAKEUP_WATCHED | FLAG_WAKEUP_SEEN,
        ..Record::default()
    };
    record.id = Identity {
        sk,
        cookie: sk,
        keepopen: 1,
        state: 1,
        ..Identity::default()
    };
    record.settings.time = 10;
    record.settings.interval = 10;
    record.settings.probes = 5;
    for numbers in [&mut record.before, &mut record.after] {
        numbers.time = ms * 1_000_000;
        numbers.jiffies = ms;
        numbers.rcv_tstamp = 1;
        numbers.state = 1;
    }
    record.after.timer_pending = 1;
    record.after.expires = ms + 10;
    record.after.probes_out = 1;
    record
}

fn end(sk: u64, ms: u64, within: u8) -> Record {
    let mut record = probe(sk, ms);
    record.kind = KIND_CLOSE;
    record.flags = 0;
    record.within = within;
    record.from_state = state::ESTABLISHED;
    record
}

fn observe(tracker: &mut Tracker, records: &[Record]) -> Vec<Event> {
    let mut observations = Vec::new();
    for record in records {
        tracker.observe(record, &mut observations);
    }
    observations
        .into_iter()
        .map(|observation| observation.event)
        .collect()
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events
        .iter()
        .map(|event| match event {
            Event::Armed(_) => "armed",
            Event::Timer(_) => "timer",
            Event::WindowProbe(_) => "window_probe",
            Event::Answer(_) => "answer",
            Event::Closed(_) => "closed",
            Event::Start(_) | Event::Lost(_) | Event::End(_) => "other",
        })
        .collect()
}

#[test]
fn another_socket_at_the_same_address_is_another_socket() {
    let mut second = probe(1, 30);
    second.id.cookie = 99;
    let events = observe(&mut tracker(10), &[probe(1, 20), second]);
    assert_eq!(names(&events), ["armed", "timer", "armed", "timer"]);
    let (Event::Timer(first), Event::Timer(second)) = (&events[1], &events[3]) else {
        panic!("{events:?}");
    };
    assert_ne!(first.socket.id, second.socket.id);
}

#[test]
fn the_end_inside_a_timer_run_is_told_after_the_run() {
    let mut run = probe(1, 30);
    run.flags = FLAG_WAKEUP_WATCHED;
    (run.id.state, run.after.state, run.after.timer_pending) = (state::CLOSE, state::CLOSE, 0);
    let events = observe(
        &mut tracker(10),
        &[probe(1, 20), end(1, 30, WITHIN_KEEPALIVE_TIMER), run],
    );
    assert_eq!(names(&events), ["armed", "timer", "timer", "closed"]);
}

#[test]
fn an_end_whose_timer_run_was_lost_is_told_at_last() {
    let mut tracker = tracker(10);
    let events = observe(
        &mut tracker,
        &[probe(1, 20), end(1, 30, WITHIN_KEEPALIVE_TIMER)],
    );
    assert_eq!(names(&events), ["armed", "timer"]);
    let mut observations = Vec::new();
    tracker.finish(&mut observations);
    let [
        Observation {
            event: Event::Closed(closed),
            ..
        },
    ] = observations.as_slice()
    else {
        panic!("{observations:?}");
    };
    assert_eq!(closed.what.cause, Cause::KeepaliveProbes);
}

#[test]
fn a_live_answer_is_told_once() {
    let mut ack = probe(1, 25);
    ack.kind = KIND_ACK;
    (ack.before.probes_out, ack.after.probes_out) = (1, 0);
    ack.after.rcv_tstamp = 25;
    let mut next = probe(1, 40);
    next.before.rcv_tstamp = 25;
    let events = observe(&mut tracker(10), &[probe(1, 20), ack, next]);
    assert_eq!(names(&events), ["armed", "timer", "answer", "timer"]);
    let Event::Answer(answer) = &events[2] else {
        panic!("{events:?}")
    };
    assert_eq!(
        (answer.what.rtt_us, answer.what.precision),
        (5000, Precision::Exact)
    );
}

/// 256 unanswered probes wrap the kernel's byte to 0, which is no answer.
#[test]
fn a_wrapped_count_is_no_answer() {
    let mut last = probe(1, 20);
    (last.before.probes_out, last.after.probes_out) = (255, 0);
    let events = observe(&mut tracker(10), &[last, probe(1, 30)]);
    assert_eq!(names(&events), ["armed", "timer", "timer"]);
}

#[test]
fn a_full_table_drops_the_oldest_and_counts_it() {
    let mut tracker = tracker(16);
    for sk in 1..=20 {
        observe(&mut tracker, &[probe(sk, sk * 10)]);
    }
    assert_eq!(tracker.evicted(), 4);
    assert!(tracker.sockets.len() <= 16);
    assert!(!tracker.sockets.contains_key(&1) && tracker.sockets.contains_key(&20));
}

#[test]
fn a_socket_takes_little_memory() {
    assert!(size_of::<Socket>() <= 224, "{} bytes", size_of::<Socket>());
}
