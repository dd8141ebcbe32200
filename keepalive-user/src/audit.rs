//! # `keepalive audit`
//!
//! Every socket judged by a table of rules, worst first: what is broken, what will be, and what to
//! set.

mod middlebox;
mod nearest;
mod remedy;
mod rules;

use std::{collections::BTreeMap, io::BufWriter};

use anyhow::{Result, ensure};
use keepalive_ebpf::Snapshot;

use self::middlebox::Middlebox;
use self::rules::{Case, Found, NAMESPACE_RULE};
pub use self::{
    middlebox::{Named, help as middlebox_help},
    nearest::suggestion,
    rules::RULES,
};
use crate::{
    arithmetic,
    attribution::Attribution,
    cli::{Audit, FailOn, Ignore},
    clock::{self, Clock},
    event::{AuditEnd, Finding, Incomplete, ListedSocket, Severity, TcpState},
    exit::{Exit, Refusal, is_broken_pipe},
    filter,
    listing::{Lister, Listing, row},
    namespace::{self, Namespace},
    output::audit::AuditOutput,
    privileges,
    sandbox::Needs,
    source::Options,
};

/// All rules, for the command line.
pub fn rule_names() -> Vec<&'static str> {
    let rules = RULES.iter().map(|rule| rule.name);
    rules.chain([NAMESPACE_RULE]).collect()
}

/// Runs the command.
pub fn run(arguments: &Audit) -> Result<Exit> {
    let (findings, end) = judge(arguments)?;
    arguments.sandbox.enter(&Needs::printing());
    let failed = findings
        .iter()
        .any(|finding| fails(arguments.fail_on.as_ref(), finding));
    let unseen = end.incomplete.iter().any(|it| it.what == "namespace");
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
        // Nothing found among what could be seen is not nothing.
        _ if is_blind => Ok(Exit::NotPermitted),
        _ => Ok(Exit::Success),
    }
}

/// Judges the sockets there are: the findings, worst first, and what they amount to.
///
/// # Errors
/// If they cannot be listed, or what is asked for does not exist.
pub fn judge(arguments: &Audit) -> Result<(Vec<Finding>, AuditEnd)> {
    let usage = |error: anyhow::Error| Refusal::new(Exit::Usage, format!("{error:#}"));
    let filter = arguments.select.filter().map_err(usage)?;
    let ignored = arguments.ignored().map_err(usage)?;
    let options = Options {
        btf: arguments.btf.clone(),
        ..Options::default()
    };
    let (namespaces, unseen) = namespaces(arguments)?;
    let middleboxes = middleboxes(arguments, &namespaces)?;
    let mut lister = Lister::open(None, &options)?;
    let listing = lister.list(&namespaces, true, &|socket: &Snapshot| {
        filter::admits(&filter, &socket.id)
    })?;
    let mut judge = Judge {
        arguments,
        ignored,
        clock: Clock::now()?,
        attribution: Attribution::of_cgroups(),
        middleboxes: &middleboxes,
        findings: Vec::new(),
        taken_out: 0,
    };
    let mut end = judge.all(listing, &namespaces)?;
    end.incomplete.extend(unseen);
    judge
        .findings
        .sort_by(|(one, a), (other, b)| (other.severity, b).cmp(&(one.severity, a)));
    let findings = judge.findings.into_iter();
    Ok((findings.map(|(finding, _)| finding).collect(), end))
}

/// Where to look, and what of it cannot be seen.
fn namespaces(arguments: &Audit) -> Result<(Vec<Namespace>, Vec<Incomplete>)> {
    if arguments.all_netns {
        let (all, unseen) = Namespace::all()?;
        return Ok((all.into_values().collect(), unseen));
    }
    let here = match &arguments.select.netns {
        None => Namespace::current()?,
        Some(name) => Namespace::named(name)
            .map_err(|error| Refusal::new(Exit::Usage, format!("{error:#}")))?,
    };
    Ok((vec![here], Vec::new()))
}

/// What is between the ends, by network namespace.
fn middleboxes(arguments: &Audit, namespaces: &[Namespace]) -> Result<BTreeMap<u32, Middlebox>> {
    let inodes = namespaces.iter().map(|namespace| namespace.inode);
    let everywhere =
        |middlebox: Middlebox| inodes.map(|inode| (inode, middlebox.clone())).collect();
    Ok(match (&arguments.middlebox, arguments.idle_timeout) {
        (Some(Named::Preset(middlebox)), _) => everywhere(middlebox.clone()),
        (Some(Named::Conntrack), _) => {
            let mut found = BTreeMap::new();
            for namespace in namespaces {
                if let Some(conntrack) = namespace.within(|| Ok(Middlebox::conntrack()))? {
                    found.insert(namespace.inode, conntrack);
                }
            }
            ensure!(
                !found.is_empty(),
                "no connection tracking here (nf_conntrack is not loaded)"
            );
            found
        }
        (None, Some(timeout)) => everywhere(Middlebox {
            name: "what is between the ends".to_owned(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            source: None,
        }),
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

struct Judge<'a> {
    arguments: &'a Audit,
    ignored: Vec<Ignore>,
    clock: Clock,
    attribution: Attribution,
    middleboxes: &'a BTreeMap<u32, Middlebox>,
    /// With the silence of their sockets: of equal findings the longest silent is the worst.
    findings: Vec<(Finding, u64)>,
    taken_out: u64,
}

impl Judge<'_> {
    fn all(&mut self, mut listing: Listing, namespaces: &[Namespace]) -> Result<AuditEnd> {
        let silent_ms = u64::try_from(self.arguments.silent.as_millis()).unwrap_or(u64::MAX);
        let (mut judged, mut not_judged) = (0, 0);
        let hz = clock::hz();
        let middleboxes = self.middleboxes;
        for (index, socket) in listing.sockets.iter().enumerate() {
            let mut row = row::row(socket, index as u64 + 1, listing.hz, &self.clock);
            (row.process, row.pids) = listing.owners.processes(socket.id.inode);
            let pid = self.arguments.select.pid;
            if pid.is_some_and(|pid| !row.pids.contains(&pid)) {
                continue;
            }
            if row.keepalive.is_some() {
                judged += 1;
            } else {
                let state = row.socket.state;
                // Those have no settings.
                let by_nature = matches!(state, TcpState::TimeWait | TcpState::SynRecv);
                not_judged += u64::from(!by_nature);
                continue;
            }
            let plan = arithmetic::plan_of(&row, hz);
            let case = Case {
                socket: &row,
                plan: plan.as_ref(),
                middlebox: middleboxes.get(&row.socket.netns),
                silent_ms,
            };
            for rule in RULES {
                if let Some(found) = (rule.check)(&case) {
                    self.note(
                        rule.name,
                        rule.severity,
                        Some((&row, socket.id.cgroup)),
                        row.socket.netns,
                        found,
                    )?;
                }
            }
        }
        self.namespaces(&mut listing, namespaces)?;
        let mut findings: BTreeMap<String, u64> = BTreeMap::new();
        for (finding, _) in &self.findings {
            *findings.entry(finding.rule.clone()).or_default() += 1;
        }
        Ok(AuditEnd {
            when: self.clock.when()?,
            source: listing.source,
            sockets: judged,
            not_judged,
            findings,
            ignored: self.taken_out,
            incomplete: listing.incomplete,
        })
    }

    /// Namespaces whose defaults are not the host's, as far as we may see the host's.
    fn namespaces(&mut self, listing: &mut Listing, namespaces: &[Namespace]) -> Result<()> {
        let Some((host, defaults)) = namespace::host() else {
            listing.incomplete.push(Incomplete {
                what: "sysctls".to_owned(),
                count: 1,
                reason: format!(
                    "those of the host are not shown to us{}",
                    privileges::hint()
                ),
            });
            return Ok(());
        };
        for namespace in namespaces.iter().filter(|there| there.inode != host) {
            let found = listing
                .sysctls
                .get(&namespace.inode)
                .and_then(|sysctls| rules::namespace_sysctls(sysctls, &defaults));
            if let Some(found) = found {
                self.note(NAMESPACE_RULE, Severity::Info, None, namespace.inode, found)?;
            }
        }
        Ok(())
    }

    fn note(
        &mut self,
        rule: &str,
        severity: Severity,
        socket: Option<(&ListedSocket, u64)>,
        netns: u32,
        found: Found,
    ) -> Result<()> {
        let wanted = &self.arguments.rule;
        if !wanted.is_empty() && !wanted.iter().any(|name| name == rule) {
            return Ok(());
        }
        let is_ignored = self.ignored.iter().any(|ignore| {
            ignore.rule == rule
                && ignore
                    .target
                    .as_ref()
                    .is_none_or(|target| socket.is_some_and(|(row, _)| target.is(row)))
        });
        if is_ignored {
            self.taken_out += 1;
            return Ok(());
        }
        let container_id = socket.and_then(|(_, cgroup)| self.attribution.cgroup(cgroup).1);
        let row = socket.map(|(row, _)| row);
        let finding = Finding {
            when: self.clock.when()?,
            rule: rule.to_owned(),
            severity,
            socket: row.map(|row| row.socket.clone()),
            process: row.and_then(|row| row.process.clone()),
            container_id,
            netns,
            evidence: found.evidence,
            consequence: found.consequence,
            remedy: found.remedy,
        };
        let silence = row.and_then(|row| row.silence_ms).unwrap_or_default();
        self.findings.push((finding, silence));
        Ok(())
    }
}
