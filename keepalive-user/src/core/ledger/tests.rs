//! Histories of one socket, event by event.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::*;
use crate::core::event::{
    Answer, BeforeAfter, Cause, Closed, Decision, Endpoint, Event, Family, IdleCloses, Keepalive,
    ProbeKind, Process, Socket, SocketEvent, Span, TcpState, TimerRun, Totals, When,
};

const SECOND: u64 = 1_000_000_000;

fn about<T>(seconds: u64, what: T) -> SocketEvent<T> {
    let end = |port| Endpoint {
        address: Ipv4Addr::LOCALHOST.into(),
        port,
    };
    SocketEvent {
        when: When {
            timestamp: Timestamp::UNIX_EPOCH,
            monotonic_ns: seconds * SECOND,
        },
        socket: Socket {
            id: 1,
            cookie: None,
            family: Family::Ipv4,
            local: end(22),
            peer: end(5432),
            state: TcpState::Established,
            netns: 1,
            mptcp: None,
        },
        process: None,
        cgroup: None,
        container_id: None,
        keepalive: Keepalive {
            enabled: true,
            time_ms: 1000,
            time_origin: None,
            interval_ms: 1000,
            interval_origin: None,
            probes: 2,
            probes_origin: None,
            user_timeout_ms: 0,
        },
        what,
    }
}

fn timer(seconds: u64, decision: Decision, attempt: Option<u32>) -> Event {
    Event::Timer(about(
        seconds,
        TimerRun {
            decision,
            idle_ms: Some(1000),
            late_ms: None,
            packets_out: 0,
            unsent_bytes: 0,
            probes_out: BeforeAfter {
                before: 0,
                after: attempt.unwrap_or(0),
            },
            attempt,
            attempts: Some(2),
            sent: Some(true),
            send_error: None,
            outage: None,
            next_ms: Some(1000),
            death: None,
        },
    ))
}

fn probe(seconds: u64, attempt: u32) -> Event {
    timer(seconds, Decision::ProbeSent, Some(attempt))
}

fn answer(seconds: u64, rtt_us: Option<u64>) -> Event {
    Event::Answer(about(
        seconds,
        Answer {
            probe: ProbeKind::Keepalive,
            attempt: 1,
            earlier: 0,
            reported_after_ms: 0,
            rtt_us,
            precision: None,
        },
    ))
}

fn closed(seconds: u64, cause: Cause) -> Event {
    Event::Closed(about(
        seconds,
        Closed {
            cause,
            error: None,
            from_state: TcpState::Established,
            orphan: false,
            closed_by: None,
            undelivered_bytes: 0,
            retransmitting_ms: None,
            probing_ms: None,
            last_probe_ms: None,
            outage: None,
            idle_ms: None,
            last_data_ms: None,
            lifetime_ms: None,
            watched_ms: 0,
            probes_out: 0,
            retransmits: 0,
            totals: Totals {
                timers: 100,
                keepalive_probes: 90,
                keepalive_answers: 80,
                ..Totals::default()
            },
        },
    ))
}

fn history(events: &[Event]) -> History {
    let mut history = History::new(events[0].about().unwrap());
    for event in events {
        history.observe(event.about().unwrap(), event);
    }
    history
}

#[test]
fn a_probe_is_unanswered_once_it_cannot_be_answered_any_more() {
    let events = [probe(1, 1), answer(1, Some(40)), probe(2, 1), probe(3, 2)];
    let unanswered = [1, 2, 3, 4].map(|number| history(&events[..number]).unanswered());
    assert_eq!(unanswered, [0, 0, 0, 1]);
    let ended = |cause| history(&[&events[..], &[closed(4, cause)]].concat());
    assert_eq!(ended(Cause::KeepaliveProbes).unanswered(), 2);
    assert_eq!(ended(Cause::KeepaliveProbes).results.len(), 3);
    // A reset counts as an answer, too.
    assert_eq!(ended(Cause::PeerReset).unanswered(), 1);
    assert_eq!(ended(Cause::PeerReset).results.len(), 2);
}

#[test]
fn the_timer_and_the_probe_are_the_present_ones() {
    let at = |events: &[Event]| {
        let history = history(events);
        let due = history.timer.map(|timer| timer.due / SECOND);
        (due, history.probe.map(|probe| probe.attempt))
    };
    let busy = timer(2, Decision::SocketBusy, None);
    let idle = timer(2, Decision::NotIdle, None);
    assert_eq!(at(&[probe(1, 1)]), (Some(2), Some(1)));
    assert_eq!(at(&[probe(1, 1), busy]), (Some(3), Some(1)));
    assert_eq!(at(&[probe(1, 1), idle]), (Some(3), None));
    assert_eq!(at(&[probe(1, 1), answer(1, None)]), (Some(2), None));
    let end = closed(2, Cause::LocalClose);
    assert_eq!(at(&[probe(1, 1), end]), (None, Some(1)));
}

/// The answer may be to either of the two probes before it: neither counts as unanswered.
#[test]
fn a_late_answer_does_not_make_a_probe_unanswered() {
    let Event::Answer(mut late) = answer(2, None) else {
        unreachable!();
    };
    (late.what.attempt, late.what.earlier) = (2, 1);
    let history = history(&[probe(1, 1), probe(2, 2), Event::Answer(late)]);
    assert_eq!((history.answers, history.unanswered()), (1, 0));
    let results = [ProbeResult::Unresolved, ProbeResult::Answered(None)];
    assert_eq!(history.results, results);
}

#[test]
fn data_suppresses_probes_as_long_as_it_lasts() {
    let run = |decision| timer(1, decision, None);
    let suppressed = |events: &[Event]| history(events).suppressed.map(|it| (it.runs, it.by));
    let twice = [run(Decision::DataInFlight), run(Decision::DataUnsent)];
    assert_eq!(suppressed(&twice), Some((2, Data::Unsent)));
    let over = [&twice[..], &[run(Decision::NotIdle)]].concat();
    assert_eq!(suppressed(&over), None);
}

#[test]
fn the_certificate_has_the_numbers_of_a_partial_history() {
    let events = [probe(1, 1), closed(2, Cause::PeerFin)];
    let mut partial = History::new(events[0].about().unwrap());
    partial.is_partial = true;
    for event in &events {
        partial.observe(event.about().unwrap(), event);
    }
    assert_eq!((partial.timers, partial.unanswered()), (100, 10));
    let whole = history(&events);
    assert_eq!((whole.timers, whole.unanswered()), (1, 1));
}

#[test]
fn the_owner_is_the_last_that_was_resolved() {
    let mut first = answer(1, None);
    *first.owner().unwrap().process = Some(Arc::new(Process {
        pid: 7,
        comm: "sshd".to_owned(),
    }));
    let process = history(&[first, answer(2, None)]).process;
    assert_eq!(process.map(|process| process.pid), Some(7));
}

#[test]
fn each_side_is_counted_by_itself() {
    let mut closes = Closes::within(Duration::from_secs(9));
    for (cause, last_data_ms) in [
        (Cause::LocalClose, None),
        (Cause::LocalClose, Some(70)),
        (Cause::PeerReset, Some(5)),
        (Cause::LocalClose, Some(20)),
        (Cause::PeerFin, Some(4000)),
        (Cause::OwnerKilled, Some(50)),
    ] {
        let Event::Closed(mut event) = closed(1, cause) else {
            unreachable!();
        };
        event.what.last_data_ms = last_data_ms;
        closes.add(&event.what);
    }
    let of = |closed, least, most| IdleCloses {
        watched_ms: 9000,
        closed,
        idle_ms: Some(Span { least, most }),
    };
    assert_eq!(
        (closes.owner, closes.peer),
        (of(4, 20, 70), of(1, 4000, 4000))
    );
}
