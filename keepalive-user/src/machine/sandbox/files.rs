//! Landlock: which files may still be opened, independent of their owner and mode.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::{Needs, OwnerLookup};
use crate::machine::owners::cgroup2_root;

/// The newest ABI version that this file uses; an older kernel applies the rights that it supports.
const NEWEST: ABI = ABI::V6;

/// Files that every command may read: processes, cgroups (also for the number of CPUs), and the files of
/// the time zone.
const READ: &[&str] = &[
    "/proc",
    "/sys/fs/cgroup",
    "/etc/localtime",
    "/usr/share/zoneinfo",
];

/// Restricts the calling thread to the files that are needed; returns how far the kernel applied it.
pub fn restrict(needs: &Needs) -> Result<String, String> {
    // A process under Landlock may not read /proc/PID/fd of a process that is not (`domain_ptrace`).
    if needs.owners == OwnerLookup::Proc {
        return Err("it would hide /proc/PID/fd of other processes".to_owned());
    }
    if needs.namespaces {
        return Err("it would hide the network namespaces of other processes".to_owned());
    }
    let status = ruleset(needs)
        .and_then(RulesetCreated::restrict_self)
        .map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok("in full".to_owned()),
        RulesetStatus::PartiallyEnforced => Ok("as far as this kernel supports it".to_owned()),
        RulesetStatus::NotEnforced => {
            Err("this kernel does not support it, or it is not enabled (lsm=…,landlock)".to_owned())
        }
    }
}

fn ruleset(needs: &Needs) -> Result<RulesetCreated, landlock::RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    // The connection of the self-test uses any free port.
    if !needs.listing {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut ruleset = ruleset.create()?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    for path in READ.iter().map(PathBuf::from).chain(cgroup2_root()) {
        ruleset = allow(ruleset, &path, read)?;
    }
    if needs.terminal {
        let terminal = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        ruleset = allow(ruleset, Path::new("/dev/tty"), terminal)?;
    }
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Refer;
    for directory in &needs.directories {
        ruleset = allow(ruleset, directory, write)?;
    }
    Ok(ruleset)
}

/// A path that does not exist needs no rule.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(file) = PathFd::new(path) else {
        return Ok(ruleset);
    };
    // Directories have rights that files do not.
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(NEWEST)
    };
    ruleset.add_rule(PathBeneath::new(file, access))
}
