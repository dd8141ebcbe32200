//! The end of the shared trace: its last line must agree with all other lines.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::harness::suite::{Report, Verdict};
use crate::kit::event::Event;
use crate::kit::expect::Facts;
use crate::kit::leftovers::Holdings;
use crate::kit::tracer::{Ended, Tracer};

pub const NAME: &str = "end_of_trace";

/// Sends SIGINT to the tracer and checks its output and what it leaves behind.
pub fn end_of_trace(tracer: Tracer, facts: Facts) -> Report {
    let begin = Instant::now();
    let mut notes = Vec::new();
    let outcome = interrupt(tracer, facts, &mut notes);
    Report {
        name: NAME,
        verdict: match outcome {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed {
                reason: format!("{error:#}"),
                details: Vec::new(),
            },
        },
        took: begin.elapsed(),
        notes,
    }
}

fn interrupt(tracer: Tracer, facts: Facts, notes: &mut Vec<String>) -> Result<()> {
    let holdings = Holdings::of(tracer.pid())?;
    let ended = tracer.interrupt()?;
    check(&ended, facts, notes)?;
    holdings.expect_gone()
}

fn check(ended: &Ended, facts: Facts, notes: &mut Vec<String>) -> Result<()> {
    ensure!(
        ended.status.success(),
        "{}, stderr: {}",
        ended.status,
        ended.stderr.trim()
    );
    ensure!(
        ended.malformed.is_empty(),
        "not JSON: {:?}",
        ended.malformed.first()
    );
    let end = ended.end()?;
    expect_counts(end, &ended.lines)?;
    for place in ["ring", "decode", "tracker", "scratch", "unreadable"] {
        end.expect(&format!("lost.{place}"), 0)?;
    }
    notes.extend(ended.stderr.lines().map(|line| format!("cost: {line}")));
    notes.push(format!(
        "{} lines, {} events without an owner",
        ended.lines.len(),
        end.get("lost.owner")
    ));
    for line in &ended.lines {
        line.expect_clock(facts.clock_offset_ns)?;
    }
    Ok(())
}

/// The kinds of socket events.
const KINDS: [&str; 5] = ["armed", "timer", "window_probe", "answer", "closed"];

/// The totals of the last line are those of the lines before it, plus the lines that were dropped
/// because the reader was too slow.
pub fn expect_counts(end: &Event, lines: &[Event]) -> Result<()> {
    let unread = end.number("lost.output")?;
    if unread > 0 {
        let mut reported = 0;
        for kind in KINDS {
            reported += end.number(&format!("events.{kind}"))?;
        }
        let printed = lines.iter().filter(|line| line.key().is_some()).count() as u64;
        // The dropped lines may include other kinds than socket events.
        ensure!(
            (reported.saturating_sub(unread)..=reported).contains(&printed),
            "{printed} lines printed and {unread} dropped, of {reported}"
        );
        return Ok(());
    }
    for kind in KINDS {
        let printed = lines.iter().filter(|line| line.is(kind)).count();
        end.expect(&format!("events.{kind}"), printed)?;
    }
    for (total, kind, field) in [
        ("decisions", "timer", "decision"),
        ("causes", "closed", "cause"),
    ] {
        let mut printed = BTreeMap::new();
        for line in lines.iter().filter(|line| line.is(kind)) {
            *printed.entry(line.text(field)).or_insert(0_u64) += 1;
        }
        let totals: BTreeMap<&str, u64> = end
            .get(total)
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)))
            .filter(|(_, count)| *count > 0)
            .collect();
        ensure!(
            totals == printed,
            "`end.{total}` is {totals:?}, the lines add up to {printed:?}"
        );
    }
    Ok(())
}
