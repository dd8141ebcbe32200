//! `keepalive audit`: every socket judged by a table of rules, worst first.

use std::{collections::BTreeMap, io::BufWriter};

use anyhow::{Result, ensure};

use crate::{
    cli::{Audit, FailOn},
    core::{
        event::{Finding, IncompletePart},
        exit::{Exit, is_broken_pipe},
        rules::{Middlebox, Named},
    },
    machine::{
        audit::{audit, conntrack},
        bpf::Options,
        namespace::Namespace,
        sandbox::Needs,
    },
    output::audit::AuditOutput,
};

/// Runs the command.
pub fn run(arguments: &Audit) -> Result<Exit> {
    let filter = arguments.select.filter()?;
    let mut wanted = arguments.wanted()?;
    let (namespaces, unseen) = arguments.select.namespaces(arguments.all_netns)?;
    wanted.middleboxes = middleboxes(arguments, &namespaces)?;
    let options = Options {
        btf: arguments.btf.clone(),
        ..Options::default()
    };
    let (findings, mut end) = audit(&wanted, &filter, &namespaces, &options)?;
    end.incomplete.extend(unseen);
    arguments.sandbox.confinement().enter(&Needs::printing());
    let failed = findings
        .iter()
        .any(|finding| fails(arguments.fail_on.as_ref(), finding));
    let unseen = end
        .incomplete
        .iter()
        .any(|it| it.what == IncompletePart::Namespace);
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

/// The middleboxes between the ends, by network namespace.
fn middleboxes(arguments: &Audit, namespaces: &[Namespace]) -> Result<BTreeMap<u32, Middlebox>> {
    let inodes = namespaces.iter().map(|namespace| namespace.inode);
    let everywhere =
        |middlebox: Middlebox| inodes.map(|inode| (inode, middlebox.clone())).collect();
    Ok(match (&arguments.middlebox, arguments.idle_timeout) {
        (Some(Named::Preset(middlebox)), _) => everywhere(middlebox.clone()),
        (Some(Named::Conntrack), _) => {
            let mut found = BTreeMap::new();
            for namespace in namespaces {
                if let Some(conntrack) = namespace.within(|| Ok(conntrack()))? {
                    found.insert(namespace.inode, conntrack);
                }
            }
            ensure!(
                !found.is_empty(),
                "no connection tracking here (nf_conntrack is not loaded)"
            );
            found
        }
        (None, Some(timeout)) => everywhere(Middlebox::unnamed(timeout)),
        (None, None) => BTreeMap::new(),
    })
}

fn fails(fail_on: Option<&FailOn>, finding: &Finding) -> bool {
    match fail_on {
        None => false,
        Some(FailOn::Severity(severity)) => finding.severity >= *severity,
        Some(FailOn::Rule(rule)) => finding.rule == *rule,
    }
}
