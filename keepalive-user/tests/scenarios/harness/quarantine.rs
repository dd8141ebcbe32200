//! The one list of failures whose cause is known and is not ours to mend. They are printed, counted
//! apart and shown in the matrix; a failure for which there is no such evidence is a failure.
//!
//! A row needs evidence of its cause in the very run that failed, so that it cannot hide another one.

/// What must hold on every kernel whatever it does not run: sums and totals, ends, readers, privileges.
const NEVER: &[&str] = &[
    "end_of_trace",
    "twenty_thousand_in_step",
    "shutdown_under_churn",
    "churn_of_short_connections",
    "blocked_reader",
    "slow_reader_is_counted",
    "second_interrupt",
    "duration_in_a_burst",
    "least_privilege",
    "least_privilege_ambient",
    "self_tests_of_others",
];

/// What is known of a run that failed.
pub struct Evidence {
    pub name: &'static str,
    /// On the running kernel, not on one of the matrix.
    pub live: bool,
    /// What tracers of this suite reported as missed while the scenario ran.
    pub missed: u64,
    /// Programs that the kernel skipped or that collided meanwhile, as tracers of this suite reported.
    pub skipped: u64,
}

struct Quarantine {
    applies: fn(&Evidence) -> bool,
    reason: &'static str,
}

const QUARANTINE: &[Quarantine] = &[
    Quarantine {
        applies: |evidence| evidence.live && evidence.missed > 0,
        reason: "the running kernel did not run BPF programs for some timers, and the tracer reported so: `missed`",
    },
    Quarantine {
        applies: |evidence| evidence.skipped > 0,
        reason: "the kernel skipped a program that a preempted one kept from running, and the tracer reported so: `lost` (recursion, scratch)",
    },
];

/// The scenarios that this list names.
pub fn names() -> impl Iterator<Item = &'static str> {
    NEVER.iter().copied()
}

/// Why this failure is quarantined; `None` if it is a failure.
pub fn reason(evidence: &Evidence) -> Option<&'static str> {
    QUARANTINE
        .iter()
        .filter(|_| !NEVER.contains(&evidence.name))
        .find(|row| (row.applies)(evidence))
        .map(|row| row.reason)
}
