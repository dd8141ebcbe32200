//! Applies every rule to every socket, drops unwanted findings, and sorts them, worst first.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Case, Middlebox, NAMESPACE_RULE, NAMESPACE_SEVERITY, RULES, Surroundings, Violation,
    namespace_sysctls, rule_names,
};
use crate::core::{
    arithmetic,
    event::{Finding, ListedSocket, Severity, Sysctls, TcpState, When},
    target::Target,
};

/// Which findings to report, of which sockets.
#[derive(Clone, Debug, Default)]
pub struct AuditScope {
    /// Names of rules; empty = all.
    pub rules: Vec<String>,
    pub ignored: Vec<Ignore>,
    /// Only sockets that this process holds.
    pub pid: Option<u32>,
    /// Silence from which a connection without keepalive is a finding, milliseconds.
    pub silent_ms: u64,
    /// The middleboxes between the ends, by network namespace.
    pub middleboxes: BTreeMap<u32, Middlebox>,
}

/// Findings to suppress: the rule, and the sockets; all sockets if none is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignore {
    pub rule: String,
    pub target: Option<Target>,
}

impl Ignore {
    /// Parses an ignore file.
    ///
    /// # Errors
    /// The first invalid line.
    pub fn lines(text: &[u8]) -> Result<Vec<Self>> {
        let text = std::str::from_utf8(text).context("not UTF-8")?;
        let mut ignored = Vec::new();
        for (index, line) in text.lines().enumerate() {
            ignored.extend(Self::line(line).with_context(|| format!("line {}", index + 1))?);
        }
        Ok(ignored)
    }

    fn line(line: &str) -> Result<Option<Self>> {
        let content = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = content.split_whitespace().collect();
        let (rule, target) = match words[..] {
            [] => return Ok(None),
            [rule] => (rule, None),
            [rule, target] => (rule, Some(target.parse()?)),
            _ => bail!("expected a rule and at most one socket"),
        };
        let known: Vec<&str> = rule_names().collect();
        ensure!(
            known.contains(&rule),
            "unknown rule {rule:?}; rules are {}",
            known.join(", ")
        );
        Ok(Some(Self {
            rule: rule.to_owned(),
            target,
        }))
    }
}

/// Judges sockets and network namespaces, one after the other.
pub struct Judge<'a> {
    scope: &'a AuditScope,
    around: &'a Surroundings,
    when: When,
    /// The kernel's ticks per second, if known.
    hz: Option<u32>,
    /// With the silence of their sockets: of equally severe findings the longest silence sorts first.
    findings: Vec<(Finding, u64)>,
    /// Sockets that were judged.
    pub judged: u64,
    /// Sockets that have keepalive settings, but whose settings are unknown.
    pub not_judged: u64,
    /// Findings that were suppressed.
    pub ignored: u64,
}

impl<'a> Judge<'a> {
    pub fn new(
        scope: &'a AuditScope,
        around: &'a Surroundings,
        when: When,
        hz: Option<u32>,
    ) -> Self {
        Self {
            scope,
            around,
            when,
            hz,
            findings: Vec::new(),
            judged: 0,
            not_judged: 0,
            ignored: 0,
        }
    }

    /// Judges one socket. `container` resolves the container it was created in, if a rule needs it.
    pub fn socket(&mut self, row: &ListedSocket, container: impl Fn() -> Option<Arc<str>>) {
        if self.scope.pid.is_some_and(|pid| !row.pids.contains(&pid)) {
            return;
        }
        if row.keepalive.is_none() {
            // TIME_WAIT, SYN_RECV, and FIN_WAIT2 without an owner (often a small socket, too) have no settings.
            let by_nature = matches!(row.socket.state, TcpState::TimeWait | TcpState::SynRecv)
                || (row.socket.state == TcpState::FinWait2 && row.orphan);
            self.not_judged += u64::from(!by_nature);
            return;
        }
        self.judged += 1;
        let plan = arithmetic::plan_of(row, self.hz);
        let case = Case {
            socket: row,
            plan: plan.as_ref(),
            middlebox: self.scope.middleboxes.get(&row.socket.netns),
            silent_ms: self.scope.silent_ms,
            around: self.around,
        };
        for rule in RULES {
            if let Some(found) = (rule.check)(&case)
                && self.is_wanted(rule.name, Some(row))
            {
                let finding = Finding {
                    socket: Some(row.socket.clone()),
                    process: row.process.clone(),
                    container_id: container(),
                    ..self.finding(rule.name, rule.severity, row.socket.netns, found)
                };
                let silence = row.silence_ms.unwrap_or_default();
                self.findings.push((finding, silence));
            }
        }
    }

    /// Judges the defaults of a network namespace against those of the host.
    pub fn namespace(&mut self, netns: u32, sysctls: &Sysctls, host: &Sysctls) {
        if let Some(found) = namespace_sysctls(sysctls, host)
            && self.is_wanted(NAMESPACE_RULE, None)
        {
            let finding = self.finding(NAMESPACE_RULE, NAMESPACE_SEVERITY, netns, found);
            self.findings.push((finding, 0));
        }
    }

    /// All findings, worst first, and their number by rule.
    pub fn findings(mut self) -> (Vec<Finding>, BTreeMap<String, u64>) {
        self.findings
            .sort_by(|(one, a), (other, b)| (other.severity, b).cmp(&(one.severity, a)));
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (finding, _) in &self.findings {
            *counts.entry(finding.rule.clone()).or_default() += 1;
        }
        let findings = self.findings.into_iter().map(|(finding, _)| finding);
        (findings.collect(), counts)
    }

    /// Whether to report a finding; a suppressed one is counted.
    fn is_wanted(&mut self, rule: &str, row: Option<&ListedSocket>) -> bool {
        let rules = &self.scope.rules;
        if !rules.is_empty() && !rules.iter().any(|name| name == rule) {
            return false;
        }
        let is_ignored = self.scope.ignored.iter().any(|ignore| {
            let target = ignore.target.as_ref();
            ignore.rule == rule && target.is_none_or(|target| row.is_some_and(|row| target.is(row)))
        });
        self.ignored += u64::from(is_ignored);
        !is_ignored
    }

    fn finding(&self, rule: &str, severity: Severity, netns: u32, found: Violation) -> Finding {
        Finding {
            when: self.when,
            rule: rule.to_owned(),
            severity,
            socket: None,
            process: None,
            container_id: None,
            netns,
            evidence: found.evidence,
            consequence: found.consequence,
            remedy: found.remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_lines() {
        assert_eq!(Ignore::line("  # nothing").unwrap(), None);
        let all = Ignore::line("suppressed").unwrap().unwrap();
        assert_eq!((all.rule.as_str(), all.target), ("suppressed", None));
        let one = Ignore::line("no_keepalive :9000 # why").unwrap().unwrap();
        assert_eq!(one.target, Some(Target::Port(9000)));
        for bad in ["nonsense", "suppressed :x", "suppressed :1 :2"] {
            assert!(Ignore::line(bad).is_err(), "{bad}");
        }
    }
}
