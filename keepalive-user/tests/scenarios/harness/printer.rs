//! What the suite prints: a line per scenario for people and for `cargo xtask test`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::harness::suite::{Report, Verdict};

/// Prints reports as they arrive and counts them.
pub struct Printer {
    backend: String,
    passed: AtomicU32,
    failed: AtomicU32,
    quarantined: AtomicU32,
    not_applicable: AtomicU32,
}

impl Printer {
    pub fn new(backend: &str) -> Self {
        Self {
            backend: backend.to_owned(),
            passed: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            quarantined: AtomicU32::new(0),
            not_applicable: AtomicU32::new(0),
        }
    }

    /// `scenario`, backend, name, verdict, milliseconds, reason; then details and notes.
    pub fn print(&self, report: Report) {
        let (counter, verdict, reason, details) = match report.verdict {
            Verdict::Passed => (&self.passed, "ok", String::new(), Vec::new()),
            Verdict::Failed { reason, details } => (&self.failed, "FAIL", reason, details),
            Verdict::Quarantined { reason, failure } => {
                let details = vec![format!("quarantined, it failed with: {failure}")];
                (&self.quarantined, "QUAR", reason.to_owned(), details)
            }
            Verdict::NotApplicable(reason) => (&self.not_applicable, "n/a", reason, Vec::new()),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut text = format!(
            "scenario\t{}\t{}\t{verdict}\t{}\t{}\n",
            self.backend,
            report.name,
            report.took.as_millis(),
            reason.replace(['\n', '\t'], " ")
        );
        for line in details.iter().flat_map(|detail| detail.lines()) {
            text.push_str(&format!("    {line}\n"));
        }
        for note in report.notes {
            text.push_str(&format!("note\t{}\t{note}\n", self.backend));
        }
        // Written with one call, because threads report concurrently.
        print!("{text}");
    }

    /// Prints the totals; true if nothing failed.
    pub fn summary(&self) -> bool {
        let failed = self.failed.load(Ordering::Relaxed);
        println!(
            "scenarios: {} passed, {failed} failed, {} quarantined, {} not applicable",
            self.passed.load(Ordering::Relaxed),
            self.quarantined.load(Ordering::Relaxed),
            self.not_applicable.load(Ordering::Relaxed)
        );
        failed == 0
    }
}

impl Report {
    pub fn not_applicable(name: &'static str, reason: &str) -> Self {
        Self {
            name,
            verdict: Verdict::NotApplicable(reason.to_owned()),
            took: Duration::ZERO,
            notes: Vec::new(),
        }
    }
}
