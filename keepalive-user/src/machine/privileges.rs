//! # Privileges
//!
//! Which capabilities this process has of those that observing the kernel takes.

use caps::{CapSet, Capability};

/// A capability and what it is for.
pub struct Privilege {
    pub name: &'static str,
    /// What does not work without it.
    pub purpose: &'static str,
    pub required: bool,
    pub held: bool,
}

/// All that matter, required ones first. CAP_SYS_ADMIN stands for the first two.
pub fn all() -> Vec<Privilege> {
    let admin = holds(Capability::CAP_SYS_ADMIN);
    vec![
        Privilege {
            name: "CAP_BPF",
            purpose: "loading BPF programs",
            required: true,
            held: admin || holds(Capability::CAP_BPF),
        },
        Privilege {
            name: "CAP_PERFMON",
            purpose: "attaching them to the kernel",
            required: true,
            held: admin || holds(Capability::CAP_PERFMON),
        },
        Privilege {
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

/// What to tell someone who lacks them.
pub fn remedy(missing: &[&str]) -> String {
    format!(
        "missing {}: run as root (sudo keepalive …)",
        missing.join(" and ")
    )
}

/// What helps where other processes' files are kept from us, if anything does.
pub fn hint() -> &'static str {
    if holds(Capability::CAP_SYS_PTRACE) {
        " (a policy keeps them from root, too)"
    } else {
        ": run as root"
    }
}

fn holds(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}
