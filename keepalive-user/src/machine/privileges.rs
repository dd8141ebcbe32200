//! # Privileges
//!
//! Which of the capabilities that tracing needs this process has.

use caps::{CapSet, Capability};

use crate::core::event::CapabilityReport;

/// All relevant capabilities, required ones first. CAP_SYS_ADMIN includes the first two.
pub fn all() -> Vec<CapabilityReport> {
    let admin = holds(Capability::CAP_SYS_ADMIN);
    vec![
        CapabilityReport {
            name: "CAP_BPF",
            purpose: "loading BPF programs",
            required: true,
            held: admin || holds(Capability::CAP_BPF),
        },
        CapabilityReport {
            name: "CAP_PERFMON",
            purpose: "attaching them to the kernel",
            required: true,
            held: admin || holds(Capability::CAP_PERFMON),
        },
        CapabilityReport {
            name: "CAP_SYS_PTRACE",
            purpose: "finding the processes that own sockets",
            required: false,
            held: holds(Capability::CAP_SYS_PTRACE),
        },
    ]
}

/// Names of the required capabilities that are missing.
pub fn missing() -> Vec<&'static str> {
    all()
        .iter()
        .filter(|privilege| privilege.required && !privilege.held)
        .map(|privilege| privilege.name)
        .collect()
}

/// The message for a user without these capabilities.
pub fn remedy(missing: &[&str]) -> String {
    format!(
        "missing {}: run as root (sudo keepalive …)",
        missing.join(" and ")
    )
}

/// The remedy where the files of other processes are not readable, if there is one.
pub fn hint() -> &'static str {
    if holds(Capability::CAP_SYS_PTRACE) {
        " (a security policy denies this to root, too)"
    } else {
        ": run as root"
    }
}

fn holds(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}
