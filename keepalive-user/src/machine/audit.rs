//! The audit of this machine: lists its sockets, and checks them against the rules of `core::rules`.

use std::cell::RefCell;

use anyhow::Result;
use keepalive_ebpf::{Filter, Snapshot};

use super::{
    bpf::Options,
    clock, files,
    listing::Lister,
    namespace::{self, Namespace},
    owners::Cgroups,
    privileges,
};
use crate::core::{
    event::{AuditEnd, Finding, Incomplete, IncompletePart},
    filter,
    rules::{AuditScope, Judge, Middlebox},
};

/// Checks the sockets of these network namespaces that the filter admits: the findings, worst first,
/// and their summary.
///
/// # Errors
/// If the sockets cannot be listed.
pub fn audit(
    scope: &AuditScope,
    filter: &Filter,
    namespaces: &[Namespace],
    options: &Options,
) -> Result<(Vec<Finding>, AuditEnd)> {
    let mut lister = Lister::open(None, options)?;
    let mut listing = lister.list(namespaces, true, &|socket: &Snapshot| {
        filter::admits(filter, &socket.id)
    })?;
    let now = clock::now();
    let cgroups = RefCell::new(Cgroups::open());
    let mut judge = Judge::new(scope, clock::when(now), clock::hz());
    for (index, socket) in listing.sockets.iter().enumerate() {
        let row = listing.row(socket, index as u64 + 1, &now);
        let place = || cgroups.borrow_mut().resolve(socket.id.cgroup);
        judge.socket(&row, || place()?.container_id);
    }
    // The comparison needs the sysctls of the host, which may not be readable.
    match namespace::host() {
        None => listing.incomplete.push(Incomplete {
            what: IncompletePart::Sysctls,
            count: 1,
            reason: format!("those of the host are not readable{}", privileges::hint()),
        }),
        Some((host, defaults)) => {
            for namespace in namespaces.iter().filter(|there| there.inode != host) {
                if let Some(sysctls) = listing.sysctls.get(&namespace.inode) {
                    judge.namespace(namespace.inode, sysctls, &defaults);
                }
            }
        }
    }
    let (sockets, not_judged, ignored) = (judge.judged, judge.not_judged, judge.ignored);
    let (findings, counts) = judge.findings();
    let end = AuditEnd {
        when: clock::when(now),
        source: listing.source,
        sockets,
        not_judged,
        findings: counts,
        ignored,
        incomplete: listing.incomplete,
    };
    Ok((findings, end))
}

/// The connection tracking of the calling thread's network namespace, if it has one.
pub fn conntrack() -> Option<Middlebox> {
    const TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
    let seconds: u64 = files::read_kernel(TIMEOUT).ok()?.trim().parse().ok()?;
    Some(Middlebox {
        name: "connection tracking here".to_owned(),
        timeout_ms: seconds * 1000,
        source: Some("nf_conntrack_tcp_timeout_established"),
    })
}
