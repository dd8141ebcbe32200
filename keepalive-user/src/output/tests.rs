//! The outputs of fixed records: tests of everything above the kernel and the machine.

use jiff::tz::TimeZone;
use keepalive_ebpf::{Kind, Record, RecordFlags, Within};
use proptest::prelude::*;

use super::*;
use crate::core::{
    clock::Clock,
    event::{End, EventCounts, Losses, Process},
    format::{escape, is_harmful},
    ledger::Counts,
    tracker::Tracker,
    wire::tests::sound,
};

pub const HZ: u32 = 250;
pub const SECOND: u64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z − 1000 s.
pub const CLOCK: Clock = Clock {
    offset_ns: (1_767_225_600 - 1000) * 1_000_000_000,
};
/// Jiffies wrap in the middle of the story.
const EPOCH: u64 = (1 << 32) - 200;

/// A record `seconds` after the start, of a connection armed with idle 1 s, interval 1 s, count 2.
pub fn record(kind: Kind, seconds: u64) -> Record {
    let mut record = Record {
        flags: RecordFlags::WAKEUP_WATCHED,
        ..Record::new(kind)
    };
    record.id.sk = 0xffff_8880_0000_1000;
    record.id.cookie = 0x1f;
    record.id.netns = 4_026_531_840;
    record.id.local = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01";
    record.id.peer = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x09";
    (record.id.local_port, record.id.peer_port) = (22, 51514);
    (record.id.state, record.id.keepopen) = (1, true);
    record.settings.time = HZ;
    record.settings.interval = HZ;
    record.settings.probes = 2;
    for sample in [&mut record.before, &mut record.after] {
        sample.time = (1000 + seconds) * SECOND;
        sample.jiffies = EPOCH + seconds * u64::from(HZ);
        sample.rcv_tstamp = EPOCH as u32;
        sample.state = 1;
        sample.keepopen = true;
    }
    record
}

/// A run of the timer that sent the `out`th unanswered probe.
pub fn probe(seconds: u64, out: u8) -> Record {
    let mut probe = record(Kind::KeepaliveTimer, seconds);
    probe.flags |= RecordFlags::WAKEUP_SEEN;
    probe.before.expires = probe.before.jiffies - 4;
    (probe.before.probes_out, probe.after.probes_out) = (out - 1, out);
    probe.after.timer_pending = true;
    probe.after.expires = probe.after.jiffies + u64::from(HZ);
    probe.after.clock_cache = probe.after.time;
    probe.after.segs_out = seconds as u32;
    probe
}

/// Armed, probed, answered, probed again, and killed by keepalive.
pub fn story() -> Vec<Record> {
    let mut armed = record(Kind::Setsockopt, 0);
    armed.flags |= RecordFlags::SWITCHING_ON | RecordFlags::PROCESS_CONTEXT;
    armed.id.keepopen = false;
    let mut second = probe(2, 1);
    // The first probe was answered 40 ms after it was sent.
    let answer = 1001 * SECOND + 40_000_000;
    for sample in [&mut second.before, &mut second.after] {
        sample.rcv_tstamp = (EPOCH + 260) as u32;
    }
    second.before.clock_cache = answer;
    second.before.segs_out = 1;
    let mut third = probe(3, 2);
    let mut closed = record(Kind::Close, 4);
    closed.within = Within::KeepaliveTimer;
    closed.from_state = 1;
    closed.id.state = 7;
    closed.id.error = 110;
    let mut killed = record(Kind::KeepaliveTimer, 4);
    (killed.id.state, killed.after.state) = (7, 7);
    for record in [&mut third, &mut closed, &mut killed] {
        record.before.rcv_tstamp = (EPOCH + 260) as u32;
        record.after.rcv_tstamp = (EPOCH + 260) as u32;
        record.before.expires = record.before.jiffies - 4;
    }
    for record in [&mut closed, &mut killed] {
        record.before.probes_out = 2;
        record.after.probes_out = 2;
    }
    vec![armed, probe(1, 1), second, third, closed, killed]
}

pub fn events(records: &[Record]) -> Vec<Event> {
    let mut tracker = Tracker::new(HZ, CLOCK, 1000, 0);
    let mut observations = Vec::new();
    for record in records {
        tracker.observe(record, &mut observations);
    }
    tracker.finish(&mut observations);
    observations
        .into_iter()
        .map(|observation| observation.event)
        .collect()
}

fn pretty(events: &[Event], colour: bool) -> String {
    let mut text = Vec::new();
    for event in events {
        pretty::line(event, colour, &TimeZone::UTC, &mut text).unwrap();
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn prints_the_story() {
    let expected = "\
00:00:00.000 ? 10.0.0.1:22 → 10.0.0.9:51514  keepalive set: idle 1 s, interval 1 s, count 2, timer in 1 s
00:00:01.000 ? 10.0.0.1:22 → 10.0.0.9:51514  probe 1/2 sent, no segment from the peer for 1 s, next in 1 s, dead at 00:00:03 unless answered
00:00:01.040 ? 10.0.0.1:22 → 10.0.0.9:51514  probe 1 answered after 40 ms
00:00:02.000 ? 10.0.0.1:22 → 10.0.0.9:51514  probe 1/2 sent, no segment from the peer for 960 ms, next in 1 s, dead at 00:00:04 unless answered
00:00:03.000 ? 10.0.0.1:22 → 10.0.0.9:51514  probe 2/2 sent, no segment from the peer for 1.9 s, next in 1 s, dead at 00:00:04 unless answered
00:00:04.000 ? 10.0.0.1:22 → 10.0.0.9:51514  timer ended the connection, no segment from the peer for 2.9 s
00:00:04.000 ? 10.0.0.1:22 → 10.0.0.9:51514  no answer to 2 probes over 2 s; last segment from the peer at 00:00:01, 2.9 s ago; killed by keepalive; the application got ETIMEDOUT (connection timed out)
";
    assert_eq!(pretty(&events(&story()), false), expected);
}

#[test]
fn colours_only_on_request() {
    let events = events(&story());
    assert!(!pretty(&events, false).contains('\u{1b}'));
    assert!(pretty(&events, true).contains('\u{1b}'));
}

/// Data was sent before the timer took the socket lock: the reason must not be "0 segments".
#[test]
fn data_in_flight_is_never_0_segments() {
    let mut run = record(Kind::KeepaliveTimer, 1);
    run.after.packets_out = 1;
    run.after.timer_pending = true;
    run.after.expires = run.after.jiffies + u64::from(HZ);
    let text = pretty(&events(&[run]), false);
    assert!(
        text.contains("no probe") && !text.contains("0 segments"),
        "{text}"
    );
}

#[test]
fn prints_the_summary() {
    let events = events(&story());
    let (mut summary, mut counts) = (Summary::default(), Counts::default());
    for event in &events {
        summary.add(event);
        counts.add(event);
    }
    let end = End {
        when: CLOCK.at(1005 * SECOND),
        duration_ms: 5000,
        sockets: counts.sockets(),
        events: counts.events,
        decisions: counts.decisions(),
        causes: counts.causes(),
        lost: Losses {
            owner: 7,
            ..Losses::default()
        },
        missed: crate::core::event::MissedCounts::default(),
        cut: None,
    };
    assert_eq!(
        counts.events,
        EventCounts {
            armed: 1,
            timer: 4,
            window_probe: 0,
            send_retry: 0,
            answer: 1,
            closed: 1,
            suspend: 0,
            clock_step: 0,
            sysctl: 0,
        }
    );
    let mut text = Vec::new();
    summary.table(&end, &mut text).unwrap();
    let expected = "
OWNER  CONNECTION                    TIMERS  PROBES  ANSWERED  UNANSWERED  WORST RTT  OUTCOME
?      10.0.0.1:22 → 10.0.0.9:51514       4       3         1           2      40 ms  keepalive_probes

1 socket in 5 s: 4 timer runs (1 killed, 3 probe_sent), 0 zero-window probes, 1 answer, 1 closed (1 keepalive_probes)
Nothing was lost.
7 events with an unresolved owner.
";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

#[test]
fn json_is_one_object_per_line_that_fits_the_schema() {
    let mut text = Vec::new();
    for event in events(&story()) {
        json_line(&event, &mut text).unwrap();
    }
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&str> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "armed", "timer", "answer", "timer", "timer", "timer", "closed"
        ]
    );
    assert_eq!(lines[1]["socket"]["cookie"], "1f");
    assert_eq!(lines[1]["timestamp"], "2026-01-01T00:00:01Z");
    assert_eq!(lines[2]["rtt_us"], 40_000);
    assert_eq!(lines[2]["precision"], "exact");
    assert_eq!(lines[6]["cause"], "keepalive_probes");
    assert_eq!(lines[6]["watched_ms"], 4000);
}

/// TCP_KEEPINTVL 32767 s: dead in three and a half days, for which a time of day is ambiguous.
#[test]
fn a_death_days_away_has_a_date() {
    let mut slow = probe(1, 1);
    slow.settings.interval = 32_767 * HZ;
    slow.settings.probes = 9;
    slow.after.expires = slow.after.jiffies + u64::from(32_767 * HZ);
    let text = pretty(&events(&[slow]), false);
    assert!(text.contains("01-04") || text.contains("81 h"), "{text}");
}

fn schema_of(of: SchemaOf) -> String {
    let mut text = Vec::new();
    schema(of, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// The schemas are an interface: they are committed, so that every change appears in a diff.
#[test]
fn schemas_are_the_committed_ones() {
    for (of, name, committed) in [
        (
            SchemaOf::Trace,
            "trace",
            include_str!("../../../docs/schema/trace.json"),
        ),
        (
            SchemaOf::List,
            "list",
            include_str!("../../../docs/schema/list.json"),
        ),
        (
            SchemaOf::Explain,
            "explain",
            include_str!("../../../docs/schema/explain.json"),
        ),
        (
            SchemaOf::Audit,
            "audit",
            include_str!("../../../docs/schema/audit.json"),
        ),
        (
            SchemaOf::Doctor,
            "doctor",
            include_str!("../../../docs/schema/doctor.json"),
        ),
    ] {
        assert!(
            schema_of(of) == committed,
            "the lines changed: describe it in docs/CHANGELOG.md, then run \
             `keepalive schema {name} > docs/schema/{name}.json`"
        );
    }
}

/// The schemas name every event and every field that the JSON has.
#[test]
fn schemas_describe_the_lines() {
    for (of, names) in [
        (
            SchemaOf::Trace,
            [
                "window_probe",
                "user_timeout_ms",
                "keepalive_user_timeout",
                "rtt_us",
                "watched_ms",
                "where",
            ],
        ),
        (
            SchemaOf::List,
            [
                "list_end",
                "earliest_ms",
                "delayed_ack",
                "one_timer_only",
                "incomplete",
                "pids",
            ],
        ),
    ] {
        let text = schema_of(of);
        for name in names {
            assert!(text.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}

/// An answer is read at the next timer, so that a healthy socket may have a probe out when a trace
/// ends. That probe does not count as unanswered.
#[test]
fn a_probe_still_out_is_not_unanswered() {
    let mut summary = Summary::default();
    for event in &events(&story()[..3]) {
        summary.add(event);
    }
    let end = End {
        when: CLOCK.at(1003 * SECOND),
        duration_ms: 3000,
        sockets: 1,
        events: EventCounts::default(),
        decisions: std::collections::BTreeMap::new(),
        causes: std::collections::BTreeMap::new(),
        lost: Losses::default(),
        missed: crate::core::event::MissedCounts::default(),
        cut: None,
    };
    let mut text = Vec::new();
    summary.table(&end, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let row = text.lines().find(|line| line.contains('→')).unwrap();
    let unanswered = row.split_whitespace().nth(7);
    assert_eq!(unanswered, Some("0"), "{text}");
}

#[test]
fn untrusted_text_is_escaped() {
    let hostile = "a\u{1b}[31mb\u{9b}2J\r\n\u{202e}c\u{7f}";
    assert_eq!(
        escape(hostile),
        "a\\u{1b}[31mb\\u{9b}2J\\u{d}\\u{a}\\u{202e}c\\u{7f}"
    );
    let mut events = events(&story());
    for event in &mut events {
        *event.owner().unwrap().process = Some(std::sync::Arc::new(Process {
            pid: 1,
            comm: hostile.to_owned(),
        }));
    }
    let mut json = Vec::new();
    for event in &events {
        json_line(event, &mut json).unwrap();
    }
    for text in [pretty(&events, false), String::from_utf8(json).unwrap()] {
        assert!(!text.chars().any(|c| is_harmful(c) && c != '\n'), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No bytes from a ring buffer or a recording make an output fail or panic.
    #[test]
    fn any_records_give_output(
        bytes in proptest::collection::vec(any::<u8>(), size_of::<Record>() * 8),
    ) {
        let mut records: Vec<Record> = bytes
            .chunks_exact(size_of::<Record>())
            .map(sound)
            .collect();
        for record in &mut records {
            record.id.sk %= 3;
        }
        let events = events(&records);
        let mut summary = Summary::default();
        for event in &events {
            summary.add(event);
            json_line(event, &mut Vec::new()).unwrap();
        }
        pretty(&events, true);
        report::tests::all_kinds(&events);
    }
}
