//! A model of the kernel makes the records of a socket, some of which get lost: the probes that the
//! tracker saw and those it counts as missed must add up to the probes that the model sent.

use keepalive_ebpf::{Identity, Kind, Settings, Within};
use proptest::prelude::*;

use super::*;
use crate::core::{
    clock::Clock,
    event::{Decision, Event},
    tracker::{Observation, Tracker},
};

const HZ: u32 = 250;
const JIFFY: u64 = 1_000_000_000 / HZ as u64;
const IDLE: u32 = 3 * HZ;
const INTERVAL: u32 = 2 * HZ;
const COUNT: u8 = 5;

/// The reaction of the peer to a probe.
#[derive(Clone, Copy, Debug)]
enum Peer {
    Answers,
    /// Answers, and then sends data.
    Talks,
    Silent,
}

/// One socket of `tcp_keepalive_timer`.
struct Kernel {
    sample: TcpSample,
    probes: u64,
    is_closed: bool,
}

impl Kernel {
    fn new() -> Self {
        let start = 1 << 20;
        let mut kernel = Self {
            sample: TcpSample {
                expires: start + u64::from(IDLE),
                rcv_tstamp: start as u32,
                lrcvtime: start as u32,
                timer_pending: true,
                state: state::ESTABLISHED,
                keepopen: true,
                segs_out: 3,
                write_seq: 100,
                snd_nxt: 100,
                snd_una: 100,
                ..TcpSample::default()
            },
            probes: 0,
            is_closed: false,
        };
        kernel.at(start);
        kernel
    }

    fn at(&mut self, jiffies: u64) {
        self.sample.jiffies = jiffies;
        self.sample.time = jiffies * JIFFY;
    }

    fn record(&self, kind: Kind, before: TcpSample) -> Record {
        let mut record = Record {
            before,
            after: self.sample,
            settings: Settings {
                time: IDLE,
                interval: INTERVAL,
                probes: COUNT.into(),
                ..Settings::default()
            },
            id: Identity {
                sk: 1,
                cookie: 1,
                state: self.sample.state,
                keepopen: true,
                ..Identity::default()
            },
            ..Record::new(kind)
        };
        if kind == Kind::Close {
            record.within = Within::KeepaliveTimer;
            record.from_state = state::ESTABLISHED;
        }
        record
    }

    /// The timer runs, slightly late; returns the records of the run, in order.
    fn run(&mut self, late: u64, peer: Peer) -> Vec<Record> {
        self.at(self.sample.expires + late);
        self.sample.timer_pending = false;
        let before = self.sample;
        let now = before.jiffies;
        let idle = silence(&before).unwrap_or(0);
        if idle >= IDLE && before.probes_out >= COUNT {
            self.sample.state = state::CLOSE;
            self.is_closed = true;
            let closed = self.record(Kind::Close, TcpSample::default());
            return vec![closed, self.record(Kind::KeepaliveTimer, before)];
        }
        let next = if idle >= IDLE {
            self.probes += 1;
            self.sample.probes_out += 1;
            self.sample.segs_out += 1;
            INTERVAL
        } else {
            IDLE - idle
        };
        self.sample.expires = now + u64::from(next);
        self.sample.timer_pending = true;
        let record = self.record(Kind::KeepaliveTimer, before);
        if idle >= IDLE && !matches!(peer, Peer::Silent) {
            self.sample.probes_out = 0;
            self.sample.rcv_tstamp = now as u32 + 1;
            if matches!(peer, Peer::Talks) {
                self.sample.lrcvtime = now as u32 + 2;
            }
        }
        vec![record]
    }
}

/// How many probes the kernel sent, how many the tracker saw, and what it counted as missed.
fn watch(runs: &[(u64, Peer, bool)]) -> (u64, u64, MissedCounts, bool) {
    let mut kernel = Kernel::new();
    let mut tracker = Tracker::new(HZ, Clock { offset_ns: 0 }, 10, 0);
    let mut seen: Vec<Observation> = Vec::new();
    tracker.observe(
        &kernel.record(Kind::Listed, TcpSample::default()),
        &mut seen,
    );
    for &(late, peer, is_seen) in runs {
        if kernel.is_closed {
            break;
        }
        for record in kernel.run(late, peer) {
            if is_seen {
                tracker.observe(&record, &mut seen);
            }
        }
    }
    kernel.at(kernel.sample.jiffies + 3);
    tracker.observe(
        &kernel.record(Kind::Polled, TcpSample::default()),
        &mut seen,
    );
    let probes = seen.iter().filter(|observation| {
        matches!(&observation.event, Event::Timer(run) if run.what.decision == Decision::ProbeSent)
    });
    (
        kernel.probes,
        probes.count() as u64,
        tracker.unseen().counts,
        kernel.is_closed,
    )
}

fn any_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        1 => Just(Peer::Answers),
        3 => Just(Peer::Silent),
        1 => Just(Peer::Talks)
    ]
}

proptest! {
    #[test]
    fn nothing_is_missed_where_everything_was_seen(
        runs in proptest::collection::vec((0..9u64, any_peer(), Just(true)), 0..30),
    ) {
        let (probes, seen, unseen, _) = watch(&runs);
        prop_assert_eq!(probes, seen);
        prop_assert_eq!(unseen, MissedCounts::default());
    }

    /// With a silent peer every probe is detected.
    #[test]
    fn probes_to_a_dead_peer_add_up(
        runs in proptest::collection::vec((0..9u64, Just(Peer::Silent), any::<bool>()), 0..9),
    ) {
        let (probes, seen, unseen, is_closed) = watch(&runs);
        prop_assert_eq!(seen + unseen.probe, probes);
        // The run that killed it, if it was not seen.
        let killed_unseen = is_closed && !runs[usize::from(COUNT)].2;
        prop_assert_eq!(unseen.close, u64::from(killed_unseen));
    }

    /// With a peer that may answer, never more probes are counted than were sent.
    #[test]
    fn no_probe_is_invented(
        runs in proptest::collection::vec((0..9u64, any_peer(), any::<bool>()), 0..30),
    ) {
        let (probes, seen, unseen, _) = watch(&runs);
        prop_assert!(seen + unseen.probe <= probes, "{seen} + {unseen:?} > {probes}");
    }
}

/// The answer to an unseen probe resets the count: the deadline has moved, and a segment was sent.
#[test]
fn a_single_unseen_probe_that_was_answered_is_found() {
    let run = |is_seen| (1, Peer::Answers, is_seen);
    // Probe, `not_idle`, probe (unseen), `not_idle`.
    let (probes, seen, unseen, _) = watch(&[run(true), run(true), run(false), run(true)]);
    assert_eq!((probes, seen), (2, 1));
    assert_eq!((unseen.probe, unseen.timer), (1, 0));
}

#[test]
fn an_unseen_run_without_a_probe_is_found() {
    let run = |is_seen| (1, Peer::Answers, is_seen);
    let (probes, seen, unseen, _) = watch(&[run(true), run(false), run(true)]);
    assert_eq!((probes, seen), (2, 2));
    assert_eq!((unseen.probe, unseen.timer), (0, 1));
}

/// A socket is read on one CPU while its timer runs on another: the run's own record is in flight.
#[test]
fn a_run_that_is_not_over_is_not_missed() {
    let mut kernel = Kernel::new();
    let mut tracker = Tracker::new(HZ, Clock { offset_ns: 0 }, 10, 0);
    let mut seen = Vec::new();
    tracker.observe(
        &kernel.record(Kind::Listed, TcpSample::default()),
        &mut seen,
    );
    let run = kernel.run(1, Peer::Silent);
    let mut within = kernel.record(Kind::Polled, TcpSample::default());
    within.after.timer_pending = false;
    tracker.observe(&within, &mut seen);
    kernel.at(kernel.sample.jiffies + 1);
    tracker.observe(
        &kernel.record(Kind::Polled, TcpSample::default()),
        &mut seen,
    );
    for record in &run {
        tracker.observe(record, &mut seen);
    }
    kernel.at(kernel.sample.jiffies + 9);
    tracker.observe(
        &kernel.record(Kind::Polled, TcpSample::default()),
        &mut seen,
    );
    assert_eq!(tracker.unseen().counts.probe, 0);
}

#[test]
fn a_deadline_that_passed_is_overdue_less_and_less_often() {
    let mut kernel = Kernel::new();
    let due = kernel.sample.expires as u32;
    let mut continuity = Continuity::of(&kernel.sample);
    let rounding = IDLE / 8;
    assert!(!continuity.is_overdue(due + HZ + rounding, HZ));
    assert!(continuity.is_overdue(due + HZ + rounding + 1, HZ));
    assert!(continuity.is_due(due + 1) && !continuity.is_due(due));
    // Read without a change, four seconds late.
    kernel.at(u64::from(due + 4 * HZ));
    continuity = Continuity::of(&kernel.sample);
    assert!(!continuity.is_overdue(due + 9 * HZ, HZ));
    assert!(continuity.is_overdue(due + 9 * HZ + 1, HZ));
    kernel.sample.timer_pending = false;
    assert!(!Continuity::of(&kernel.sample).is_overdue(due + 99 * HZ, HZ));
}
