//! Lists sockets by netlink sock_diag(7): works without BPF and for every user, with what the kernel
//! reports to that user.

mod dump;
mod settings;

use anyhow::Result;
use keepalive_ebpf::Snapshot;

use super::{Holders, Listing, each_namespace, found::Found, without_owner};
use crate::{
    core::event::{Incomplete, IncompletePart, ListSource},
    machine::{
        namespace::{self, Namespace},
        privileges,
    },
};

/// Ticks per second in the snapshots of sock_diag: milliseconds.
const DIAG_HZ: u32 = 1000;

/// Lists sockets by sock_diag, and reads their settings from copies.
pub fn list(
    namespaces: &[Namespace],
    with_owners: bool,
    wanted: &(impl Fn(&Snapshot) -> bool + Sync),
) -> Result<Listing> {
    let mut found = Found::default();
    let mut unsound = 0;
    let failed = each_namespace(namespaces, |namespace| {
        let sound = namespace.within(|| {
            Ok(!namespace::may_have_tcp() || dump::dump(namespace.inode, &mut found, wanted)?)
        })?;
        unsound += u64::from(!sound);
        Ok(())
    })?;
    found.incomplete = failed;
    for namespace in namespaces {
        found.note_sysctls(namespace);
    }
    let owners = if with_owners {
        Holders::of_proc()
    } else {
        Holders::default()
    };
    let unknown = settings::read(&mut found.sockets, &owners, &found.sysctls);
    let incomplete = |what: IncompletePart, count: u64, reason: String| {
        (count > 0).then_some(Incomplete {
            what,
            count,
            reason,
        })
    };
    let incomplete = [
        incomplete(
            IncompletePart::Sockets,
            unsound,
            "the list of sockets changed while it was read, in this many namespaces".to_owned(),
        ),
        incomplete(
            IncompletePart::Settings,
            unknown.settings,
            unknown_settings(with_owners),
        ),
        incomplete(
            IncompletePart::Settings,
            unknown.too_many_files,
            "too many open files (ulimit -n) to copy a socket and read its settings".to_owned(),
        ),
        without_owner(&found.sockets, &owners, with_owners),
    ];
    found.incomplete.extend(incomplete.into_iter().flatten());
    Ok(found.listing(ListSource::SockDiag, DIAG_HZ, owners))
}

fn unknown_settings(with_owners: bool) -> String {
    if !with_owners {
        return "without owners (--no-owner) the settings of sockets cannot be read".to_owned();
    }
    format!(
        "sock_diag reports no settings, and these sockets could not be copied to read them (orphans, \
         not yet accepted, MPTCP, or of processes whose files are not accessible){}",
        privileges::hint()
    )
}
