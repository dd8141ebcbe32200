//! The only list of failures whose cause is known and lies outside this project. They are printed,
//! counted separately and shown in the matrix; a failure without evidence of such a cause remains a
//! failure.
//!
//! A row needs evidence of its cause from the same run that failed, so that it cannot hide another
//! cause.

/// Scenarios that are never quarantined. They must pass also on kernels that skip programs: sums
/// and totals, ends, readers, privileges.
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

/// The evidence collected in a run that failed.
pub struct Evidence {
    pub name: &'static str,
    /// On the running kernel, not on one of the matrix.
    pub live: bool,
    /// What tracers of this suite reported as missed while the scenario ran.
    pub missed: u64,
    /// Programs that the kernel skipped or that collided meanwhile, as reported by tracers of this
    /// suite.
    pub skipped: u64,
}

struct Quarantine {
    applies: fn(&Evidence) -> bool,
    reason: &'static str,
}

const QUARANTINE: &[Quarantine] = &[
    Quarantine {
        applies: |evidence| evidence.live && evidence.missed > 0,
        reason: "the running kernel did not run BPF programs for some timers, and the tracer reported this: `missed`",
    },
    Quarantine {
        applies: |evidence| evidence.skipped > 0,
        reason: "the kernel skipped a program that a preempted one kept from running, and the tracer reported this: `lost` (recursion, scratch)",
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
