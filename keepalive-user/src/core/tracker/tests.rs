//! The tracker's state between records: reuse of addresses, eviction, live answers.

use keepalive_ebpf::{Kind, RecordFlags, Within};

use super::*;
use crate::core::{
    event::{ArmedCause, Cause, Cookie, Precision},
    kernel::state,
};

const HZ: u32 = 1000;
const CLOCK: Clock = Clock { offset_ns: 0 };

fn tracker(capacity: usize) -> Tracker {
    Tracker::new(HZ, CLOCK, capacity, 0)
}

/// A probe of the socket at `sk`, at a time in milliseconds.
fn probe(sk: u64, ms: u64) -> Record {
    let mut record = Record {
        flags: RecordFlags::WAKEUP_WATCHED | RecordFlags::WAKEUP_SEEN,
        ..Record::new(Kind::KeepaliveTimer)
    };
    record.id = Identity {
        sk,
        cookie: sk,
        keepopen: true,
        state: 1,
        ..Identity::default()
    };
    record.settings.time = 10;
    record.settings.interval = 10;
    record.settings.probes = 5;
    for sample in [&mut record.before, &mut record.after] {
        sample.time = ms * 1_000_000;
        sample.jiffies = ms;
        sample.rcv_tstamp = 1;
        sample.state = 1;
    }
    record.after.timer_pending = true;
    record.after.expires = ms + 10;
    record.after.probes_out = 1;
    record
}

fn end(sk: u64, ms: u64, within: Within) -> Record {
    let mut record = probe(sk, ms);
    record.kind = Kind::Close;
    record.flags = RecordFlags::empty();
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

/// Accepted and closed before its timer ran: the owner is known from the close alone.
#[test]
fn the_closing_process_is_reported_as_the_owner() {
    let mut tracker = tracker(10);
    let mut closing = probe(1, 1_000);
    closing.kind = Kind::Closing;
    closing.flags = RecordFlags::PROCESS_CONTEXT;
    closing.id.inode = 4711;
    closing.tgid = 42;
    let mut observations = Vec::new();
    tracker.observe(&closing, &mut observations);
    assert!(observations.is_empty(), "{observations:?}");
    tracker.observe(&end(1, 1_100, Within::Nothing), &mut observations);
    let closed = observations.last().unwrap();
    assert!(matches!(closed.event, Event::Closed(_)), "{closed:?}");
    assert_eq!(closed.inode, 4711);
    assert_eq!(closed.acting.map(|(pid, _)| pid), Some(42));
}

/// Listed before it lost its file and, being an orphan, its owner.
#[test]
fn a_seeded_socket_is_reported_with_its_listed_identity() {
    let mut tracker = tracker(10);
    let mut listed = probe(1, 1_000).id;
    listed.inode = 4711;
    listed.cgroup = 7;
    tracker.seed(&listed, 900_000_000, None);
    let mut record = probe(1, 1_000);
    record.id.cookie = 0;
    let mut observations = Vec::new();
    tracker.observe(&record, &mut observations);
    let [seen, timer] = &observations[..] else {
        panic!("{observations:?}");
    };
    let Event::Armed(armed) = &seen.event else {
        panic!("{seen:?}");
    };
    assert_eq!(armed.what.cause, ArmedCause::Seen);
    assert_eq!(armed.socket.id, 1);
    assert_eq!(armed.socket.cookie, Some(Cookie(1)));
    assert_eq!((seen.inode, timer.cgroup), (4711, 7));
    // Another socket at the same address inherits none of it.
    tracker.seed(&listed, 1_100_000_000, None);
    let mut other = probe(1, 1_200);
    other.id.cookie = 99;
    observations.clear();
    tracker.observe(&other, &mut observations);
    assert_eq!(observations[0].inode, 0);
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events
        .iter()
        .map(|event| match event {
            Event::Armed(_) => "armed",
            Event::Timer(_) => "timer",
            Event::WindowProbe(_) => "window_probe",
            Event::SendRetry(_) => "send_retry",
            Event::Answer(_) => "answer",
            Event::Closed(_) => "closed",
            Event::Start(_)
            | Event::Finding(_)
            | Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => "other",
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

/// On 5.10 sockets have no cookie until a process requests it: then the addresses are compared, too.
#[test]
fn another_peer_is_another_socket() {
    let (mut first, mut second) = (probe(1, 20), probe(1, 30));
    (first.id.cookie, second.id.cookie) = (0, 0);
    (first.id.peer, second.id.peer) = ([1; 16], [2; 16]);
    let events = observe(&mut tracker(10), &[first, second]);
    assert_eq!(names(&events), ["armed", "timer", "armed", "timer"]);
}

#[test]
fn the_end_inside_a_timer_run_is_reported_after_the_run() {
    let mut run = probe(1, 30);
    run.flags = RecordFlags::WAKEUP_WATCHED;
    (run.id.state, run.after.state, run.after.timer_pending) = (state::CLOSE, state::CLOSE, false);
    let events = observe(
        &mut tracker(10),
        &[probe(1, 20), end(1, 30, Within::KeepaliveTimer), run],
    );
    assert_eq!(names(&events), ["armed", "timer", "timer", "closed"]);
}

#[test]
fn an_end_whose_timer_run_was_lost_is_reported_at_the_end() {
    let mut tracker = tracker(10);
    let events = observe(
        &mut tracker,
        &[probe(1, 20), end(1, 30, Within::KeepaliveTimer)],
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

/// `Settings::sysctl_retries2` is 32 bits wide: one bad record must not take minutes.
#[test]
fn any_retries2_takes_no_time() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut record = probe(1, 20);
        record.kind = Kind::WindowProbe;
        record.settings.sysctl_retries2 = u32::MAX;
        observe(&mut tracker(10), &[record]);
        let _ = done.send(());
    });
    let limit = std::time::Duration::from_secs(3);
    assert!(
        wait.recv_timeout(limit).is_ok(),
        "still computing after 3 s"
    );
}

#[test]
fn a_live_answer_is_reported_once() {
    let mut ack = probe(1, 25);
    ack.kind = Kind::Ack;
    (ack.before.probes_out, ack.after.probes_out) = (1, 0);
    ack.after.rcv_tstamp = 25;
    ack.after.clock_cache = ack.after.time;
    let mut next = probe(1, 40);
    next.before.rcv_tstamp = 25;
    let events = observe(&mut tracker(10), &[probe(1, 20), ack, next]);
    assert_eq!(names(&events), ["armed", "timer", "answer", "timer"]);
    let Event::Answer(answer) = &events[2] else {
        panic!("{events:?}")
    };
    assert_eq!(
        (answer.what.rtt_us, answer.what.precision),
        (Some(5000), Some(Precision::Exact))
    );
}

/// `rcv_tstamp` is the time of the *last* ACK. If data or a FIN was received after the answer, it does
/// not show when the probe was answered, not even to a jiffy.
#[test]
fn a_later_ack_is_not_the_answer() {
    let mut resumed = probe(1, 60_020);
    // Answered within a millisecond; then the connection was used again, last at 50 s.
    resumed.before.rcv_tstamp = 50_000;
    resumed.before.lrcvtime = 50_000;
    resumed.before.clock_cache = 50_000 * 1_000_000;
    (resumed.before.segs_out, resumed.before.snd_una) = (9, 1000);
    // Or the peer closed long after it had answered; the FIN carries an ACK.
    let mut finished = end(1, 50_001, Within::Nothing);
    finished.from_state = state::LAST_ACK;
    finished.after.probes_out = 0;
    finished.after.rcv_tstamp = 50_000;
    finished.after.clock_cache = 50_000 * 1_000_000;
    (finished.after.segs_out, finished.after.snd_una) = (3, 1);
    for later in [resumed, finished] {
        let events = observe(&mut tracker(10), &[probe(1, 20), later]);
        assert_eq!(names(&events)[2], "answer");
        let answer = serde_json::to_value(&events[2]).unwrap();
        let precise = matches!(answer["precision"].as_str(), Some("exact" | "jiffy"));
        assert!(
            !(precise && answer["rtt_us"].as_u64() > Some(1_000_000)),
            "{answer}"
        );
    }
}

/// 256 unanswered probes wrap the kernel's byte to 0, which is not an answer.
#[test]
fn a_wrapped_count_is_not_an_answer() {
    let mut last = probe(1, 20);
    (last.before.probes_out, last.after.probes_out) = (255, 0);
    let events = observe(&mut tracker(10), &[last, probe(1, 30)]);
    assert_eq!(names(&events), ["armed", "timer", "timer"]);
}

/// The peer's application reads at 30 s: a window update, a pure ACK that no other segment follows.
#[test]
fn a_window_update_is_not_an_exact_answer() {
    let mut next = probe(1, 60_020);
    next.before.rcv_tstamp = 30_000;
    next.before.clock_cache = 30_000 * 1_000_000;
    next.before.snd_wnd = 65_535;
    let events = observe(&mut tracker(10), &[probe(1, 20), next]);
    let answer = serde_json::to_value(&events[2]).unwrap();
    assert!(
        !(answer["precision"] == "exact" && answer["rtt_us"].as_u64() > Some(1_000_000)),
        "{answer}"
    );
}

#[test]
fn a_full_table_drops_the_oldest_and_counts_it() {
    let mut tracker = tracker(16);
    for sk in 1..=20 {
        observe(&mut tracker, &[probe(sk, sk * 10)]);
    }
    assert_eq!(tracker.evicted(), 4);
    assert!(tracker.sockets.len() <= 16);
    assert!(tracker.sockets.get(1).is_none() && tracker.sockets.get(20).is_some());
}

/// Any bytes can be a record (recordings, a wrong layout): no arithmetic may panic on them.
#[test]
fn a_deadline_at_the_end_of_time_does_not_panic() {
    for user_timeout in [0, 1] {
        let mut record = probe(1, 20);
        record.after.expires = u64::MAX;
        record.settings.user_timeout = user_timeout;
        observe(&mut tracker(10), &[record]);
        record.kind = Kind::WindowProbe;
        observe(&mut tracker(10), &[record]);
    }
}

#[test]
fn a_socket_takes_little_memory() {
    assert!(size_of::<Socket>() <= 224, "{} bytes", size_of::<Socket>());
}

/// An end within a timer run waits for that run, also if the end of an earlier socket at the same address
/// was reported long ago; only an end that is really the oldest of too many is reported without its run.
#[test]
fn ends_wait_for_their_timer_run_in_order() {
    let mut tracker = tracker(2 * ENDINGS);
    let within = |sk, ms| end(sk, ms, Within::KeepaliveTimer);
    let is_closed = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Closed(_)));
    assert!(!is_closed(&observe(&mut tracker, &[within(1, 10)])));
    assert!(is_closed(&observe(&mut tracker, &[probe(1, 11)])));
    let again = |mut record: Record| {
        record.id.cookie = 77;
        record
    };
    for sk in 2..ENDINGS as u64 {
        assert!(!is_closed(&observe(&mut tracker, &[within(sk, 20)])));
    }
    // With these two, as many wait as may wait; the reported one is not among them.
    let last = [again(within(1, 30)), within(ENDINGS as u64, 31)];
    assert!(!is_closed(&observe(&mut tracker, &last)));
    let over = observe(&mut tracker, &[within(ENDINGS as u64 + 1, 40)]);
    let mut closed = Vec::new();
    for event in &over {
        if let Event::Closed(event) = event {
            closed.push(event.socket.cookie.as_ref().map(|cookie| cookie.0));
        }
    }
    assert_eq!(closed, [Some(2)]);
    assert!(is_closed(&observe(&mut tracker, &[again(probe(1, 41))])));
}

/// Read at 20.4 s, half a minute before the timer would show the answer, and only what is news is observed.
#[test]
fn the_answer_to_a_rare_probe_is_read_from_the_socket() {
    let mut tracker = tracker(10);
    let mut rare = probe(1, 20_000);
    rare.after.expires = 50_000;
    observe(&mut tracker, &[rare]);
    assert_eq!(tracker.next_look(), None, "nothing reads sockets");
    tracker.expect_looks();
    observe(&mut tracker, &[probe(2, 20_000)]);
    assert_eq!(tracker.next_look(), None, "its timer runs soon");
    rare.id.sk = 3;
    rare.id.cookie = 3;
    observe(&mut tracker, &[rare]);
    assert_eq!(tracker.next_look(), Some(20_400_000_000));
    assert!(tracker.looks(20_300_000_000, 9).is_empty());
    assert_eq!(tracker.looks(20_500_000_000, 9), [3]);

    let mut read = rare;
    (read.kind, read.after.time) = (Kind::Polled, 20_500_000_000);
    read.after.jiffies = 20_500;
    assert!(tracker.is_redundant(&read));
    (read.after.probes_out, read.after.rcv_tstamp) = (0, 20_040);
    assert!(!tracker.is_redundant(&read));
    let events = observe(&mut tracker, &[read]);
    let [Event::Answer(answer)] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(answer.what.reported_after_ms, 460);
    assert!(tracker.looks(30_000_000_000, 9).is_empty());
}
