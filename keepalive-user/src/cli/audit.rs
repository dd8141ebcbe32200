//! Arguments of `audit`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use strum::IntoEnumIterator;

use super::{Sandbox, Selection, Trace, values::duration};
use crate::{
    core::{
        event::Severity,
        exit::{Exit, Refusal},
        format::name,
        rules::{AuditScope, Ignore, Named, middlebox_help, rule_names, summaries},
    },
    machine::files,
};

const EXAMPLES: &str = "\
Examples:
  keepalive audit                         every socket of this network namespace, worst first
  keepalive audit --middlebox aws-nlb     with a load balancer in between
  keepalive audit --idle-timeout 350s -R 5432
  keepalive audit --all-netns --fail-on critical --json
  keepalive audit --rule zombie_suspect --silent 10m

With --fail-on the exit code is 5 if there is such a finding, else 3 if something could not be
judged.

An ignore file has a rule a line, and what to ignore it for: all, or a PID, :PORT, ADDR:PORT or
LOCAL-PEER. What follows a # is a comment.
  no_keepalive :9000        # the health checker";

/// What has no finding, by the rules.
const SKIPPED: &str = "\
Connections over the loopback are skipped by the rules about dead peers: on one host the kernel
closes the other end. Without keepalive, those silent for less than 60 s have no finding.";

/// The default of `--silent`.
const SILENT: Duration = Duration::from_hours(1);

/// The rules and the middleboxes, from their tables.
fn after_help() -> String {
    let mut text = String::from("Rules, with the severity of their findings:\n");
    for (rule, severity, summary) in summaries() {
        text += &format!("  {rule:26} {:8} {summary}\n", name(severity));
    }
    text + "\n" + SKIPPED + "\n\n" + &middlebox_help() + "\n\n" + EXAMPLES
}

#[derive(Args, Debug)]
#[command(after_help = after_help())]
pub struct Audit {
    /// Idle timeout of the middlebox between the ends (NAT, load balancer, firewall)
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "middlebox")]
    pub idle_timeout: Option<Duration>,
    /// Idle timeout of a proxy between the ends, which ends TCP itself and ignores keepalive probes
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with_all = ["middlebox", "idle_timeout"])]
    pub proxy_timeout: Option<Duration>,
    /// Middlebox between the ends, by name
    #[arg(long, value_name = "NAME", value_parser = middlebox)]
    pub middlebox: Option<Named>,
    /// From this silence on a connection without keepalive is critical; a warning from 60 s on
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub silent: Duration,
    /// Apply only these rules (comma-separated)
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rules(), hide_possible_values = true)]
    pub rule: Vec<String>,
    /// Skip these rules (comma-separated)
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rules(), hide_possible_values = true)]
    pub ignore: Vec<String>,
    /// Skip the rules and sockets in this file
    #[arg(long, value_name = "FILE")]
    pub ignore_file: Option<PathBuf>,
    /// Exit with 5 if there is a finding of this rule, or of at least this severity: info, warning, critical
    #[arg(long, value_name = "RULE|SEVERITY", value_parser = rules_or_severities(), hide_possible_values = true)]
    pub fail_on: Option<FailOn>,
    /// Check the sockets of all network namespaces (needs root)
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// Print one JSON object per line (`keepalive schema audit` describes them)
    #[arg(long)]
    pub json: bool,
    /// Raw BTF of the running kernel, if it does not show its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    #[command(flatten)]
    pub sandbox: Sandbox,
    /// Show diagnostics
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub select: Selection,
}

fn rules() -> PossibleValuesParser {
    PossibleValuesParser::new(rule_names())
}

fn rules_or_severities() -> impl TypedValueParser<Value = FailOn> {
    let severities = Severity::iter().map(name);
    PossibleValuesParser::new(rule_names().chain(severities)).map(|name| fail_on(&name))
}

fn middlebox(name: &str) -> Result<Named> {
    Named::of(name).with_context(|| {
        let known: Vec<&str> = Named::names().collect();
        format!(
            "expected one of {}; for others give --idle-timeout or --proxy-timeout",
            known.join(", ")
        )
    })
}

/// Findings that make the exit code 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailOn {
    Severity(Severity),
    Rule(String),
}

fn fail_on(text: &str) -> FailOn {
    let severity = Severity::iter().find(|severity| name(*severity) == text);
    severity.map_or_else(|| FailOn::Rule(text.to_owned()), FailOn::Severity)
}

impl Audit {
    /// The options of the audit, except for the middleboxes, which the command resolves.
    ///
    /// # Errors
    /// A usage error, if the ignore file cannot be read.
    pub fn wanted(&self) -> Result<AuditScope> {
        let usage = |error: anyhow::Error| Refusal::new(Exit::Usage, format!("{error:#}"));
        if let Some(rule) = self.rule.iter().find(|rule| self.ignore.contains(rule)) {
            let message = format!("--rule {rule} and --ignore {rule} exclude each other");
            return Err(Refusal::new(Exit::Usage, message).into());
        }
        Ok(AuditScope {
            rules: self.rule.clone(),
            ignored: self.ignored().map_err(usage)?,
            pid: self.select.pid,
            silent_ms: millis(self.silent),
            middleboxes: BTreeMap::new(),
        })
    }

    fn ignored(&self) -> Result<Vec<Ignore>> {
        let rules = self.ignore.iter();
        let mut ignored: Vec<Ignore> = rules
            .map(|rule| Ignore {
                rule: rule.clone(),
                target: None,
            })
            .collect();
        if let Some(path) = &self.ignore_file {
            let text = files::read(path, IGNORE_FILE)?;
            let lines = Ignore::lines(&text).with_context(|| path.display().to_string())?;
            ignored.extend(lines);
        }
        Ok(ignored)
    }
}

/// The options of the audit in a trace (`trace --audit`).
pub fn wanted_of_trace(trace: &Trace) -> AuditScope {
    AuditScope {
        pid: trace.select.pid,
        silent_ms: millis(SILENT),
        ..AuditScope::default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Longest ignore file, bytes.
const IGNORE_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_on_a_rule_or_a_severity() {
        assert_eq!(fail_on("warning"), FailOn::Severity(Severity::Warning));
        assert_eq!(fail_on("suppressed"), FailOn::Rule("suppressed".to_owned()));
    }
}
