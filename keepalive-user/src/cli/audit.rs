//! What `audit` can be asked.

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::{Sandbox, Selection, Target, Trace, duration};
use crate::{
    audit::{Named, RULES, middlebox_help, rule_names, suggestion},
    event::Severity,
    files,
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

/// Silence from which a connection without keepalive is suspect, unless told otherwise.
const SILENT: Duration = Duration::from_hours(1);

/// The rules and the middleboxes, from their tables.
fn after_help() -> String {
    let mut text = String::from("Rules:\n");
    for rule in RULES {
        text += &format!("  {:27} {}\n", rule.name, rule.summary);
    }
    text += "  namespace_sysctls           a namespace's defaults are not the host's\n\n";
    text + &middlebox_help() + "\n\n" + EXAMPLES
}

#[derive(Args, Debug)]
#[command(after_help = after_help())]
pub struct Audit {
    /// How long what is between the ends remembers a silent connection
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "middlebox")]
    pub idle_timeout: Option<Duration>,
    /// What is between the ends, by name
    #[arg(long, value_name = "NAME")]
    pub middlebox: Option<Named>,
    /// Silence from which a connection without keepalive is suspect
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub silent: Duration,
    /// Only these rules (comma-separated)
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rule)]
    pub rule: Vec<String>,
    /// Not these rules (comma-separated)
    #[arg(long, value_name = "RULE", value_delimiter = ',', value_parser = rule)]
    pub ignore: Vec<String>,
    /// Not what this file names
    #[arg(long, value_name = "FILE")]
    pub ignore_file: Option<PathBuf>,
    /// Exit with 5 if a finding is of this rule, or at least as severe: info, warning, critical
    #[arg(long, value_name = "RULE|SEVERITY")]
    pub fail_on: Option<FailOn>,
    /// Sockets of all network namespaces (takes root)
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

/// What makes the exit code 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailOn {
    Severity(Severity),
    Rule(String),
}

impl FromStr for FailOn {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "info" => Self::Severity(Severity::Info),
            "warning" => Self::Severity(Severity::Warning),
            "critical" => Self::Severity(Severity::Critical),
            _ => Self::Rule(rule(text).map_err(|error| {
                anyhow::anyhow!("{error}; severities are info, warning, critical")
            })?),
        })
    }
}

fn rule(name: &str) -> Result<String> {
    let known = rule_names();
    ensure!(
        known.contains(&name),
        "{name:?} is no rule; rules are {}{}",
        known.join(", "),
        suggestion(name, known.iter().copied())
    );
    Ok(name.to_owned())
}

/// A line of an ignore file: a rule, and for which sockets; all if none is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignore {
    pub rule: String,
    pub target: Option<Target>,
}

impl Audit {
    /// Of the sockets that a trace is about, in all network namespaces unless it is of one.
    pub fn of_trace(trace: &Trace) -> Self {
        Self {
            idle_timeout: None,
            middlebox: None,
            silent: SILENT,
            rule: Vec::new(),
            ignore: Vec::new(),
            ignore_file: None,
            fail_on: None,
            all_netns: trace.select.netns.is_none(),
            json: false,
            btf: trace.loading.btf.clone(),
            sandbox: trace.loading.sandbox,
            verbose: trace.verbose,
            select: trace.select.clone(),
        }
    }

    /// What is not to be reported.
    pub fn ignored(&self) -> Result<Vec<Ignore>> {
        let mut ignored: Vec<Ignore> = self
            .ignore
            .iter()
            .map(|rule| Ignore {
                rule: rule.clone(),
                target: None,
            })
            .collect();
        if let Some(path) = &self.ignore_file {
            let text = files::read(path, IGNORE_FILE)?;
            let lines = ignore_lines(&text).with_context(|| path.display().to_string())?;
            ignored.extend(lines);
        }
        Ok(ignored)
    }
}

/// Longest ignore file, bytes.
const IGNORE_FILE: u64 = 1 << 20;

/// What an ignore file names.
pub fn ignore_lines(text: &[u8]) -> Result<Vec<Ignore>> {
    let text = std::str::from_utf8(text).context("it is not UTF-8")?;
    let mut ignored = Vec::new();
    for (index, line) in text.lines().enumerate() {
        ignored.extend(ignore(line).with_context(|| format!("line {}", index + 1))?);
    }
    Ok(ignored)
}

fn ignore(line: &str) -> Result<Option<Ignore>> {
    let content = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = content.split_whitespace().collect();
    let (name, target) = match words[..] {
        [] => return Ok(None),
        [name] => (name, None),
        [name, target] => (name, Some(target.parse()?)),
        _ => bail!("a rule and a socket, and no more"),
    };
    Ok(Some(Ignore {
        rule: rule(name)?,
        target,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_lines() {
        assert_eq!(ignore("  # nothing").unwrap(), None);
        let all = ignore("suppressed").unwrap().unwrap();
        assert_eq!((all.rule.as_str(), all.target), ("suppressed", None));
        let one = ignore("no_keepalive :9000 # why").unwrap().unwrap();
        assert_eq!(one.target, Some(Target::Port(9000)));
        for bad in ["nonsense", "suppressed :x", "suppressed :1 :2"] {
            assert!(ignore(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fail_on() {
        let warning = "warning".parse::<FailOn>().unwrap();
        assert_eq!(warning, FailOn::Severity(Severity::Warning));
        let rule = "suppressed".parse::<FailOn>().unwrap();
        assert_eq!(rule, FailOn::Rule("suppressed".to_owned()));
        assert!("worst".parse::<FailOn>().is_err());
    }
}
