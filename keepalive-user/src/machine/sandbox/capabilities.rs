//! Which capabilities a confined command keeps. All others are dropped: effective, permitted,
//! inheritable, ambient and the bounding set.

use std::{io, path::Path, thread};

use caps::{CapSet, Capability, CapsHashSet};
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
    thread::{CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set},
};

use super::{Needs, OwnerLookup};
use crate::machine::syscall;

/// A capability that is kept for one purpose.
pub struct Kept {
    pub name: &'static str,
    pub capability: Capability,
    pub purpose: &'static str,
    /// The condition under which it is kept; empty = always.
    pub only: &'static str,
    is_needed: fn(&Needs) -> bool,
}

/// The capabilities that are kept, their purpose and condition. All others are dropped.
pub const KEPT: &[Kept] = &[
    Kept {
        name: "CAP_BPF",
        capability: Capability::CAP_BPF,
        purpose: "reading BPF maps",
        only: "where the kernel requires it (before 5.19, kernel.unprivileged_bpf_disabled)",
        is_needed: |needs| needs.bpf && !reads_maps_without(Capability::CAP_BPF),
    },
    Kept {
        name: "CAP_SYS_PTRACE",
        capability: Capability::CAP_SYS_PTRACE,
        purpose: "finding the processes that own sockets",
        only: "",
        is_needed: |needs| needs.owners != OwnerLookup::None,
    },
    Kept {
        name: "CAP_DAC_READ_SEARCH",
        capability: Capability::CAP_DAC_READ_SEARCH,
        purpose: "reading /proc/PID/fd of other users",
        only: "",
        is_needed: |needs| needs.owners == OwnerLookup::Proc,
    },
    Kept {
        name: "CAP_DAC_OVERRIDE",
        capability: Capability::CAP_DAC_OVERRIDE,
        purpose: "creating files in a directory of another user",
        only: "if a recording rotates or a report is written there",
        is_needed: |needs| !needs.directories.iter().all(|it| is_writable_without(it)),
    },
    Kept {
        name: "CAP_SYS_ADMIN",
        capability: Capability::CAP_SYS_ADMIN,
        purpose: "entering other network namespaces",
        only: "if sockets of other network namespaces are listed again",
        is_needed: |needs| needs.namespaces,
    },
    Kept {
        name: "CAP_NET_ADMIN",
        capability: Capability::CAP_NET_ADMIN,
        purpose: "reading from sock_diag which sockets are MPTCP",
        only: "if sockets are listed by sock_diag",
        is_needed: |needs| needs.sock_diag,
    },
];

/// The capabilities to keep, of those held.
pub fn needed(needs: &Needs) -> CapsHashSet {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let kept = KEPT.iter().filter(|kept| (kept.is_needed)(needs));
    let mut keep: CapsHashSet = kept.map(|kept| kept.capability).collect();
    // CAP_SYS_ADMIN includes CAP_BPF.
    if keep.contains(&Capability::CAP_BPF) && !held.contains(&Capability::CAP_BPF) {
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    keep.intersection(&held).copied().collect()
}

/// Names in the order of the table.
pub fn names(keep: &CapsHashSet) -> Vec<String> {
    let mut names: Vec<_> = keep.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}

/// Drops all others from every set of the calling thread; returns the sets that could not be changed.
pub fn keep_only(keep: &CapsHashSet) -> Vec<String> {
    let mut missing = Vec::new();
    let mut note = |what: &str, outcome: Result<(), String>| {
        if let Err(error) = outcome {
            missing.push(format!("{what}: {error}"));
        }
    };
    let text = |error: caps::errors::CapsError| error.to_string();
    // Needs CAP_SETPCAP, which is dropped below. Without it no_new_privs has the same effect.
    note("bounding set of capabilities", empty_bounding_set());
    let none = CapsHashSet::new();
    note(
        "ambient capabilities",
        caps::clear(None, CapSet::Ambient).map_err(text),
    );
    note(
        "inheritable capabilities",
        caps::set(None, CapSet::Inheritable, &none).map_err(text),
    );
    for (what, set) in [
        ("effective capabilities", CapSet::Effective),
        ("permitted capabilities", CapSet::Permitted),
    ] {
        note(what, caps::set(None, set, keep).map_err(text));
    }
    missing
}

/// Empties the bounding set, so that no executed program can gain a capability.
fn empty_bounding_set() -> Result<(), String> {
    // Also the capabilities that are newer than this program.
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        // EINVAL: above the last capability of this kernel.
        let Ok(held) = capability_is_in_bounding_set(capability) else {
            break;
        };
        if held {
            remove_capability_from_bounding_set(capability)
                .map_err(|error| format!("{} (CAP_SETPCAP is not held)", io::Error::from(error)))?;
        }
    }
    Ok(())
}

/// Whether `trial` succeeds on a thread without some capabilities; the thread then ends.
fn works_without(dropped: &[Capability], trial: impl FnOnce() -> bool + Send) -> bool {
    thread::scope(|scope| {
        let trial = scope.spawn(|| {
            let held = caps::read(None, CapSet::Effective).unwrap_or_default();
            let left = held.iter().filter(|held| !dropped.contains(held));
            let left: CapsHashSet = left.copied().collect();
            caps::set(None, CapSet::Effective, &left).is_ok() && trial()
        });
        trial.join().unwrap_or(false)
    })
}

/// Whether bpf(2) reads a map for a thread without this capability: some kernels refuse every command
/// before they check it.
fn reads_maps_without(capability: Capability) -> bool {
    works_without(&[capability, Capability::CAP_SYS_ADMIN], || {
        Errno::from_io_error(&syscall::bpf_lookup_of_no_map()) == Some(Errno::BADF)
    })
}

/// Whether files can be created in this directory without CAP_DAC_OVERRIDE.
fn is_writable_without(directory: &Path) -> bool {
    works_without(
        &[
            Capability::CAP_DAC_OVERRIDE,
            Capability::CAP_DAC_READ_SEARCH,
        ],
        || {
            let writing = Access::WRITE_OK | Access::EXEC_OK;
            accessat(CWD, directory, writing, AtFlags::EACCESS).is_ok()
        },
    )
}
