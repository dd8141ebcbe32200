//! Which probe an answer belongs to, and when it is reported.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys::second_or;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "answer_is_reported_soon",
        run: answer_is_reported_soon,
    },
    Scenario {
        name: "ambiguous_answer",
        run: ambiguous_answer,
    },
];

/// The next run of the timer is half a minute away.
fn answer_is_reported_soon(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND.interval(30))?;
    let probe = watch.decision("probe_sent")?;
    stage.facts.expect_probe(&watch, &probe, 1)?;
    let patience = second_or(8) + Duration::from_millis(500);
    let answer = watch.next_within(patience, "an answer", |event| event.is("answer"))?;
    answer.expect("attempt", 1)?;
    answer.expect("earlier", 0)?;
    answer.expect_within("rtt_us", 0..=500_000)?;
    let soon = u64::try_from(second_or(6).as_millis())?;
    answer.expect_within("reported_after_ms", 0..=soon)?;
    ensure!(answer.at_ns() >= probe.at_ns() - 1_000_000_000, "{answer}");
    Ok(())
}

/// The peer hears only the second or third probe: its answer may be to any of them (Karn).
fn ambiguous_answer(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    watch.arm(&pair.client, Keepalive::EVERY_SECOND)?;
    for attempt in 1..=2 {
        let probe = watch.timer()?;
        stage.facts.expect_probe(&watch, &probe, attempt)?;
    }
    pair.server.hear()?;
    let answer = watch.answer()?;
    let attempt = answer.number("attempt")?;
    ensure!(attempt >= 3, "{answer}");
    answer.expect("earlier", attempt - 1)?;
    answer.expect("rtt_us", Value::Null)?;
    answer.expect("precision", Value::Null)?;
    let next = watch.answer()?;
    next.expect("attempt", 1)?;
    next.expect_within("rtt_us", 0..=500_000)?;
    Ok(())
}
