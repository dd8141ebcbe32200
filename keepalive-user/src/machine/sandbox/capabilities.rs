//! Which capabilities a confined command keeps, and giving up the others: effective, permitted,
//! inheritable, ambient and the bounding set.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path, thread};

use caps::{CapSet, Capability, CapsHashSet};

use super::{Needs, Owners};

/// A capability that is kept for one purpose.
pub struct Kept {
    pub name: &'static str,
    pub capability: Capability,
    pub purpose: &'static str,
    /// When it is kept; always, if this is empty.
    pub only: &'static str,
    is_needed: fn(&Needs) -> bool,
}

/// The one table: what is kept, for what, and when. Everything else is dropped.
pub const KEPT: &[Kept] = &[
    Kept {
        name: "CAP_BPF",
        capability: Capability::CAP_BPF,
        purpose: "reading BPF maps",
        only: "where the kernel asks for it (before 5.19, kernel.unprivileged_bpf_disabled)",
        is_needed: |needs| needs.bpf && !reads_maps_without(Capability::CAP_BPF),
    },
    Kept {
        name: "CAP_SYS_PTRACE",
        capability: Capability::CAP_SYS_PTRACE,
        purpose: "finding the processes that own sockets",
        only: "",
        is_needed: |needs| needs.owners != Owners::Resolved,
    },
    Kept {
        name: "CAP_DAC_READ_SEARCH",
        capability: Capability::CAP_DAC_READ_SEARCH,
        purpose: "reading /proc/PID/fd of other users",
        only: "",
        is_needed: |needs| needs.owners == Owners::Proc,
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
        purpose: "being told by sock_diag which sockets are MPTCP",
        only: "if sockets are listed by sock_diag",
        is_needed: |needs| needs.sock_diag,
    },
];

/// What is kept of what is held.
pub fn needed(needs: &Needs) -> CapsHashSet {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let kept = KEPT.iter().filter(|kept| (kept.is_needed)(needs));
    let mut keep: CapsHashSet = kept.map(|kept| kept.capability).collect();
    // It stands for CAP_BPF where that is not held.
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

/// Drops all others from every set of the calling thread; what could not be dropped.
pub fn keep_only(keep: &CapsHashSet) -> Vec<String> {
    let mut missing = Vec::new();
    let mut note = |what: &str, outcome: Result<(), String>| {
        if let Err(error) = outcome {
            missing.push(format!("{what}: {error}"));
        }
    };
    let text = |error: caps::errors::CapsError| error.to_string();
    // Takes CAP_SETPCAP, which goes with the others. Without it no_new_privs has the same effect.
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

/// Nothing that is executed may gain anything: nothing is executed.
fn empty_bounding_set() -> Result<(), String> {
    /// Also those that this program does not know.
    const MOST: libc::c_ulong = 63;
    for capability in 0..=MOST {
        // SAFETY: takes no pointers.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        // Above the last one of this kernel: EINVAL.
        if held < 0 {
            break;
        }
        // SAFETY: takes no pointers.
        if held == 1 && unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            return Err(format!("{error} (CAP_SETPCAP is not held)"));
        }
    }
    Ok(())
}

/// Whether something works on a thread without some capabilities, which ends with it.
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

/// Whether bpf(2) answers a question about a map to a thread without this capability: some kernels
/// refuse every command before they look at it.
fn reads_maps_without(capability: Capability) -> bool {
    /// `BPF_MAP_LOOKUP_ELEM` of `union bpf_attr`: descriptor, key, value, flags.
    const LOOKUP: libc::c_int = 1;
    let no_map = [u64::from(u32::MAX), 0, 0, 0];
    works_without(&[capability, Capability::CAP_SYS_ADMIN], || {
        // SAFETY: the pointer and length are those of `no_map`; there is no such descriptor.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP, no_map.as_ptr(), size_of_val(&no_map)) };
        result == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
    })
}

/// Whether files can be created there without overriding its mode.
fn is_writable_without(directory: &Path) -> bool {
    let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else {
        return true;
    };
    works_without(
        &[
            Capability::CAP_DAC_OVERRIDE,
            Capability::CAP_DAC_READ_SEARCH,
        ],
        move || {
            // SAFETY: a C string that outlives the call.
            let result = unsafe {
                libc::faccessat(
                    libc::AT_FDCWD,
                    path.as_ptr(),
                    libc::W_OK | libc::X_OK,
                    libc::AT_EACCESS,
                )
            };
            result == 0
        },
    )
}
