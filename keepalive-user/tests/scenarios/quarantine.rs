//! The one list of failures whose cause is known and is not ours to mend. They are printed, counted
//! apart and shown in the matrix; a failure for which there is no such evidence is a failure.
//!
//! A row needs evidence of its cause in the very run that failed, so that it cannot hide another one.

/// What is known of a run that failed.
pub struct Evidence {
    /// On the running kernel, not on one of the matrix.
    pub live: bool,
    /// What tracers of this suite reported as missed while the scenario ran.
    pub missed: u64,
}

struct Quarantine {
    applies: fn(&Evidence) -> bool,
    reason: &'static str,
}

const QUARANTINE: &[Quarantine] = &[Quarantine {
    applies: |evidence| evidence.live && evidence.missed > 0,
    reason: "the running kernel did not run BPF programs for some timers, and the tracer reported so: `missed`",
}];

/// Why this failure is quarantined; `None` if it is a failure.
pub fn reason(evidence: &Evidence) -> Option<&'static str> {
    QUARANTINE
        .iter()
        .find(|row| (row.applies)(evidence))
        .map(|row| row.reason)
}
