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
    kernel::state,
    rules::{AuditScope, Judge, Surroundings, Tracking},
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
    let admits = |socket: &Snapshot| filter::admits(filter, &socket.id);
    // The listeners show which connections were accepted.
    let wanted = |socket: &Snapshot| socket.id.state == state::LISTEN || admits(socket);
    let mut listing = lister.list_with_neighbours(namespaces, &wanted)?;
    let now = clock::now();
    let cgroups = RefCell::new(Cgroups::open());
    let here = Namespace::current().ok().map(|namespace| namespace.inode);
    let around = Surroundings::new(here, listing.sockets.iter().map(|socket| &socket.id));
    let mut judge = Judge::new(scope, &around, clock::when(now), clock::hz());
    let sockets = listing.sockets.iter().enumerate();
    for (index, socket) in sockets.filter(|(_, socket)| admits(socket)) {
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

/// The connection tracking of each of these network namespaces; none of those without it, or whose
/// sysctls are not readable.
///
/// # Errors
/// If a namespace cannot be entered.
pub fn tracking<'a>(namespaces: impl IntoIterator<Item = &'a Namespace>) -> Result<Vec<Tracking>> {
    let mut found = Vec::new();
    for namespace in namespaces {
        found.extend(namespace.within(|| Ok(tracking_here(namespace.inode)))?);
    }
    Ok(found)
}

/// That of the calling thread's namespace, whose inode number this is.
fn tracking_here(netns: u32) -> Option<Tracking> {
    let read = |name: &str| -> Option<u64> {
        let text = files::read_kernel(&format!("/proc/sys/net/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let forwards = |name: &str| read(name).is_some_and(|value| value != 0);
    Some(Tracking {
        netns,
        timeout_ms: read("netfilter/nf_conntrack_tcp_timeout_established")? * 1000,
        connections: read("netfilter/nf_conntrack_count")?,
        forwards: forwards("ipv4/ip_forward") || forwards("ipv6/conf/all/forwarding"),
    })
}
