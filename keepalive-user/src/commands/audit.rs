//! `keepalive audit`: every socket judged by a table of rules, worst first.

use std::{collections::BTreeMap, io::BufWriter};

use anyhow::{Context, Result, ensure};

use crate::{
    cli::{Audit, FailOn},
    core::{
        event::{Finding, Incomplete, IncompletePart},
        exit::{Exit, Refusal, is_broken_pipe},
        rules::{Middlebox, NAMESPACE_RULE, NAMESPACE_SEVERITY, Named, Tracking},
    },
    machine::{
        audit::{audit, tracking},
        bpf::Options,
        namespace::Namespace,
        privileges,
        sandbox::Needs,
    },
    output::audit::AuditOutput,
};

/// Runs the command.
pub fn run(arguments: &Audit) -> Result<Exit> {
    let filter = arguments.select.filter()?;
    let mut wanted = arguments.wanted()?;
    let (namespaces, unseen) = arguments.select.namespaces(arguments.all_netns)?;
    let (middleboxes, unread) = middleboxes(arguments, &namespaces)?;
    wanted.middleboxes = middleboxes;
    let options = Options {
        btf: arguments.btf.clone(),
        ..Options::default()
    };
    let (findings, mut end) = audit(&wanted, &filter, &namespaces, &options)?;
    end.incomplete.extend(unseen.into_iter().chain(unread));
    arguments.sandbox.confinement().enter(&Needs::printing());
    let failed = findings
        .iter()
        .any(|finding| fails(arguments.fail_on.as_ref(), finding));
    let unseen = end.incomplete.iter().any(|it| match it.what {
        IncompletePart::Namespace | IncompletePart::Sockets => true,
        IncompletePart::Sysctls => needs_sysctls(arguments.fail_on.as_ref()),
        // Sockets without settings are counted as not judged; owners are not judged.
        IncompletePart::Settings | IncompletePart::Owner => false,
    });
    let is_blind = arguments.fail_on.is_some() && (end.not_judged > 0 || unseen);
    let writer = BufWriter::new(anstream::stdout().lock());
    let mut output = AuditOutput::new(arguments.json, writer);
    let written = findings
        .into_iter()
        .try_for_each(|finding| output.finding(finding))
        .and_then(|()| output.end(end));
    match written {
        Err(error) if !is_broken_pipe(&error) => Err(error),
        _ if failed => Ok(Exit::Findings),
        // Without findings, an incomplete listing does not show that there is no problem.
        _ if is_blind => Ok(Exit::NotPermitted),
        _ => Ok(Exit::Success),
    }
}

type Middleboxes = BTreeMap<u32, Middlebox>;

/// The middleboxes between the ends, by network namespace, and what could not be read.
fn middleboxes(
    arguments: &Audit,
    namespaces: &[Namespace],
) -> Result<(Middleboxes, Vec<Incomplete>)> {
    let inodes: Vec<u32> = namespaces.iter().map(|namespace| namespace.inode).collect();
    let everywhere = |middlebox: Middlebox| -> Middleboxes {
        let inodes = inodes.iter();
        inodes.map(|&inode| (inode, middlebox.clone())).collect()
    };
    let one = match (
        &arguments.middlebox,
        arguments.idle_timeout,
        arguments.proxy_timeout,
    ) {
        (Some(Named::Conntrack(None)), _, _) => return conntrack(&inodes),
        (Some(Named::Conntrack(Some(name))), _, _) => Some(conntrack_of(name)?),
        (Some(Named::Preset(middlebox)), _, _) => Some(middlebox.clone()),
        (None, Some(timeout), _) => Some(Middlebox::unnamed(timeout)),
        (None, None, Some(timeout)) => Some(Middlebox::proxy(timeout)),
        (None, None, None) => None,
    };
    Ok((one.map(everywhere).unwrap_or_default(), Vec::new()))
}

/// The connection tracking that the connections of these namespaces may pass.
fn conntrack(namespaces: &[u32]) -> Result<(Middleboxes, Vec<Incomplete>)> {
    let (all, unseen) = Namespace::all()?;
    let tracking = tracking(all.values())?;
    let found = Tracking::between(namespaces, &tracking);
    let hint = if unseen.is_empty() {
        ""
    } else {
        privileges::hint()
    };
    ensure!(
        !found.is_empty(),
        "no network namespace that tracks these connections is visible here: nf_conntrack_count is 0 \
         in {} of {}, and not readable in the others; name one: --middlebox conntrack:NETNS{hint}",
        tracking.iter().filter(|it| it.connections == 0).count(),
        all.len(),
    );
    Ok((found, unseen))
}

/// The connection tracking of the namespace that the user names.
fn conntrack_of(name: &str) -> Result<Middlebox> {
    let usage = |error: anyhow::Error| Refusal::new(Exit::Usage, format!("{error:#}"));
    let namespace = Namespace::named(name).map_err(usage)?;
    let tracking = tracking([&namespace])?;
    let one = tracking.first().with_context(|| {
        format!("no connection tracking in network namespace {name} (its nf_conntrack sysctls are not readable)")
    })?;
    Ok(one.named())
}

/// Whether the rule about the sysctls of namespaces can make the audit fail.
fn needs_sysctls(fail_on: Option<&FailOn>) -> bool {
    match fail_on {
        None => false,
        Some(FailOn::Severity(severity)) => NAMESPACE_SEVERITY >= *severity,
        Some(FailOn::Rule(rule)) => rule == NAMESPACE_RULE,
    }
}

fn fails(fail_on: Option<&FailOn>, finding: &Finding) -> bool {
    match fail_on {
        None => false,
        Some(FailOn::Severity(severity)) => finding.severity >= *severity,
        Some(FailOn::Rule(rule)) => finding.rule == *rule,
    }
}
