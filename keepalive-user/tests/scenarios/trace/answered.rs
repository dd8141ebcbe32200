//! Idle connections whose peer is alive: probes are sent and answered repeatedly.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase};
use crate::harness::stalls;
use crate::harness::suite::{Scenario, Stage};
use crate::kit::event::Event;
use crate::kit::expect::Facts;
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::watch::Watch;
use crate::kit::witness::{Capture, Counters, Segment};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    name: "idle_peer_answered",
    run: idle_peer_answered,
}];

pub const CASES: &[HardCase] = &[HardCase {
    name: "live_answers",
    run: live_answers,
}];

/// How far the tracer's round-trip time may differ from the captured one.
const EXACT_TOLERANCE_US: u64 = 5000;

fn idle_peer_answered(stage: &Stage<'_>) -> Result<()> {
    let capture = Capture::on_loopback()?;
    let before = Counters::read()?.keepalive_probes();
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.probes(3))?;

    let armed = watch.armed("setsockopt")?;
    armed.expect_within("next_ms", stage.facts.about(1000))?;
    armed.expect("socket.state", "established")?;

    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    probe.expect_within("idle_ms", stage.facts.at_least(1000))?;

    expect_answer(&watch)?;
    for _ in 0..2 {
        let again = watch.decision("probe_sent")?;
        stage.facts.expect_probe(&watch, &again, 1)?;
        expect_answer(&watch)?;
    }
    pair.client.switch_keepalive(false)?;

    let counted = Counters::read()?.keepalive_probes() - before;
    stage.until("an event for every probe the kernel counted", || {
        Ok(watch.count(is_probe) >= counted)
    })?;
    ensure!(
        watch.count(is_probe) == counted,
        "TCPKeepAlive counted {counted} probes"
    );
    let segments = capture.segments()?;
    let probes = probes_among(&segments, &watch)?;
    ensure!(
        probes.len() as u64 == counted,
        "the capture shows {} probes, the kernel counted {counted}",
        probes.len()
    );
    compare_round_trips(&stage.facts, &watch, &segments, &probes)
}

/// With `--live-answers` an answer is reported when it arrives, not when the timer runs next.
fn live_answers(bench: &Bench) -> Result<()> {
    let tracer = bench.trace(&["--live-answers"])?;
    tracer.start.expect("live_answers", true)?;
    let facts = Facts::from_start(&tracer.start)?;
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    let watch = Watch::new(&tracer, &pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.interval(20))?;
    let probe = watch.decision("probe_sent")?;
    facts.expect_probe(&watch, &probe, 1)?;
    // Less than the interval: the timer does not run before this.
    let answer = watch.next_within(Duration::from_secs(10), "an answer", |event| {
        event.is("answer")
    })?;
    answer.expect("probe", "keepalive")?;
    answer.expect("attempt", 1)?;
    answer.expect("precision", "exact")?;
    answer.expect_within("rtt_us", 0..=500_000)?;
    tracer.interrupt()?.end()?;
    Ok(())
}

/// Expects an answer to the first probe of a series.
pub fn expect_answer(watch: &Watch<'_>) -> Result<Event> {
    let answer = watch.answer()?;
    answer.expect("probe", "keepalive")?;
    answer.expect("attempt", 1)?;
    answer.expect_within("rtt_us", 0..=500_000)?;
    Ok(answer)
}

pub fn is_probe(event: &Event) -> bool {
    event.is_timer("probe_sent")
}

/// Keepalive probes among captured segments: no payload, and sequence number SND.UNA - 1.
pub fn probes_among(segments: &[Segment], watch: &Watch<'_>) -> Result<Vec<Segment>> {
    let ours = segments.iter().filter(|segment| {
        segment.from == watch.key.local_port && segment.to == watch.key.peer_port
    });
    // No data was sent on these connections: SND.UNA - 1 is the sequence number of the SYN.
    let initial = ours
        .clone()
        .find(|segment| segment.is_syn())
        .context("no SYN was captured")?
        .sequence;
    Ok(ours
        .filter(|segment| {
            segment.payload == 0
                && segment.sequence == initial
                && !segment.is_syn()
                && !segment.is_reset()
        })
        .copied()
        .collect())
}

/// Compares each answer's round-trip time with the time between the captured packets.
fn compare_round_trips(
    facts: &Facts,
    watch: &Watch<'_>,
    segments: &[Segment],
    probes: &[Segment],
) -> Result<()> {
    let answers: Vec<_> = watch
        .events()
        .into_iter()
        .filter(|event| event.is("answer"))
        .collect();
    ensure!(!answers.is_empty(), "no answers");
    for (answer, probe) in answers.iter().zip(probes) {
        let reply = segments
            .iter()
            .find(|segment| segment.from == probe.to && segment.at_ns >= probe.at_ns)
            .context("no captured segment answers the probe")?;
        let captured = (reply.at_ns - probe.at_ns) / 1000;
        let reported = answer.number("rtt_us")?;
        let tolerance = match answer.text("precision") {
            "exact" => EXACT_TOLERANCE_US,
            // Ticks are late by as much as the machine stalled.
            _ => (facts.tick_ms * 2 + stalls::longest_ms()) * 1000 + EXACT_TOLERANCE_US,
        };
        ensure!(
            reported.abs_diff(captured) <= tolerance,
            "the packets are {captured} µs apart: {answer}"
        );
    }
    Ok(())
}
