//! The results of the scenario suites, and their matrix: a row per scenario, a column per kernel
//! and backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::Result;

/// All columns.
#[derive(Default)]
pub struct Matrix {
    suites: Vec<Suite>,
}

/// One column: the suite on one kernel with one backend.
pub struct Suite {
    label: String,
    backend: String,
    results: Vec<Scenario>,
    /// Whether the suite's last line was seen.
    closed: bool,
    took: Duration,
    /// The error of the column as a whole.
    broken: Option<String>,
}

struct Scenario {
    name: String,
    verdict: Verdict,
    reason: String,
    /// The lines after a failure.
    details: Vec<String>,
    millis: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Fail,
    /// Failed for a reason in the suite's quarantine list.
    Quarantined,
    NotApplicable,
}

impl Suite {
    pub fn new(label: &str, backend: &str) -> Self {
        Self {
            label: label.to_owned(),
            backend: backend.to_owned(),
            results: Vec::new(),
            closed: false,
            took: Duration::ZERO,
            broken: None,
        }
    }

    /// Takes a line of the suite's output; returns the text to print.
    ///
    /// `scenario⇥backend⇥name⇥ok|FAIL|QUAR|n/a⇥milliseconds⇥reason`, `note⇥text`, the closing line
    /// `scenarios: …`, and details of a failure, which are indented.
    pub fn line(&mut self, line: &str, verbose: bool) -> Option<String> {
        if line.starts_with("scenarios: ") {
            self.closed = true;
            return Some(line.to_owned());
        }
        if let Some(note) = line.strip_prefix("note\t") {
            return verbose.then(|| note.to_owned());
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let ["scenario", backend, name, verdict, millis, rest @ ..] = fields.as_slice() else {
            if line.starts_with(' ')
                && let Some(latest) = self.results.last_mut()
                && latest.verdict == Verdict::Fail
            {
                latest.details.push(line.to_owned());
            }
            return (!line.trim().is_empty()).then(|| line.to_owned());
        };
        let verdict = match *verdict {
            "ok" => Verdict::Ok,
            "n/a" => Verdict::NotApplicable,
            "QUAR" => Verdict::Quarantined,
            _ => Verdict::Fail,
        };
        let reason = rest.join(" ");
        let shown = format!("{backend}\t{verdict:8}{name} {millis} ms {reason}");
        self.results.push(Scenario {
            name: (*name).to_owned(),
            verdict,
            reason,
            details: Vec::new(),
            millis: millis.parse().unwrap_or(0),
        });
        Some(shown.trim_end().to_owned())
    }

    /// The suite has ended, with an exit code or without.
    pub fn end(&mut self, outcome: Result<i32>, took: Duration) {
        self.took = took;
        let failed = self.count(Verdict::Fail);
        self.broken = match outcome {
            Err(error) => Some(format!("{error:#}")),
            Ok(_) if !self.closed => Some("the suite ended without its closing line".to_owned()),
            Ok(0) if self.results.is_empty() => Some("no scenario ran".to_owned()),
            Ok(code) if code != 0 && failed == 0 => {
                Some(format!("the suite ended with exit code {code}"))
            }
            Ok(_) => None,
        };
        if let Some(reason) = &self.broken {
            println!("{}\t{}\tFAIL    {reason}", self.label, self.backend);
        }
    }

    /// The longest scenario, and its duration.
    fn longest(&self) -> (&str, u64) {
        let longest = self.results.iter().max_by_key(|scenario| scenario.millis);
        longest.map_or(("", 0), |scenario| (&scenario.name, scenario.millis))
    }

    pub fn is_of(&self, label: &str, backend: &str) -> bool {
        self.label == label && self.backend == backend
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.results
            .iter()
            .filter(|scenario| scenario.verdict == verdict)
            .count()
    }

    fn find(&self, name: &str) -> Option<&Scenario> {
        self.results.iter().find(|scenario| scenario.name == name)
    }

    fn name(&self) -> String {
        format!("{} {}", self.label, self.backend)
    }
}

impl Matrix {
    pub fn add(&mut self, suite: Suite) {
        self.suites.push(suite);
    }

    /// Scenarios passed and failed; a broken column counts as one failure more.
    pub fn counts(&self) -> (usize, usize) {
        let sum = |verdict| {
            self.suites
                .iter()
                .map(|suite| suite.count(verdict))
                .sum::<usize>()
        };
        let broken = self
            .suites
            .iter()
            .filter(|suite| suite.broken.is_some())
            .count();
        (sum(Verdict::Ok), sum(Verdict::Fail) + broken)
    }

    /// Failures that are quarantined.
    pub fn quarantined(&self) -> usize {
        let counts = self.suites.iter();
        counts.map(|suite| suite.count(Verdict::Quarantined)).sum()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = Vec::new();
        for scenario in self.suites.iter().flat_map(|suite| &suite.results) {
            if !names.contains(&scenario.name.as_str()) {
                names.push(&scenario.name);
            }
        }
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let columns: Vec<String> = self.suites.iter().map(Suite::name).collect();
        for (number, column) in columns.iter().enumerate() {
            writeln!(f, "{:width$}  {}╷ {column}", "", "│ ".repeat(number))?;
        }
        for name in &names {
            write!(f, "{name:width$}  ")?;
            for suite in &self.suites {
                let mark = suite.find(name).map_or("?", |found| found.verdict.mark());
                write!(f, "{mark} ")?;
            }
            writeln!(f)?;
        }
        self.reasons(&names, f)?;
        for suite in &self.suites {
            let (longest, millis) = suite.longest();
            let (took, seconds) = (suite.took.as_secs(), millis / 1000);
            writeln!(f, "{} s {}, {longest} {seconds} s", took, suite.name())?;
        }
        // Failures come last, so that they are at the end of a long log.
        self.failures(f)
    }
}

impl Matrix {
    /// Why scenarios were not applicable or are quarantined: which columns, which scenarios.
    fn reasons(&self, names: &[&str], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: BTreeMap<_, (BTreeSet<String>, BTreeSet<&str>)> = BTreeMap::new();
        for (name, suite) in names
            .iter()
            .flat_map(|name| self.suites.iter().map(move |suite| (name, suite)))
        {
            if let Some(scenario) = suite.find(name)
                && !matches!(scenario.verdict, Verdict::Ok | Verdict::Fail)
            {
                let key = (scenario.verdict.mark(), scenario.reason.as_str());
                let (columns, scenarios) = reasons.entry(key).or_default();
                columns.insert(suite.name());
                scenarios.insert(name);
            }
        }
        for ((mark, reason), (columns, scenarios)) in reasons {
            let columns = Vec::from_iter(columns).join(", ");
            let scenarios = match scenarios.len() {
                // Quarantined scenarios are always named, however many.
                _ if mark == "q" => Vec::from_iter(scenarios).join(", "),
                0..4 => Vec::from_iter(scenarios).join(", "),
                many => format!("{many} scenarios"),
            };
            writeln!(f, "{mark} {columns}: {scenarios}: {reason}")?;
        }
        Ok(())
    }

    fn failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for suite in &self.suites {
            let name = suite.name();
            if let Some(reason) = &suite.broken {
                writeln!(f, "✗ {name}: {reason}")?;
            }
            for scenario in &suite.results {
                if scenario.verdict == Verdict::Fail {
                    writeln!(f, "✗ {name}: {}: {}", scenario.name, scenario.reason)?;
                    for line in &scenario.details {
                        writeln!(f, "{line}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Verdict {
    fn mark(self) -> &'static str {
        match self {
            Self::Ok => "✓",
            Self::Fail => "✗",
            Self::Quarantined => "q",
            Self::NotApplicable => "–",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Fail => "FAIL",
            Self::Quarantined => "QUAR",
            Self::NotApplicable => "n/a",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(lines: &[&str], outcome: Result<i32>) -> Matrix {
        let mut suite = Suite::new("6.1", "fentry");
        for line in lines {
            suite.line(line, false);
        }
        suite.end(outcome, Duration::from_secs(7));
        let mut matrix = Matrix::default();
        matrix.add(suite);
        matrix
    }

    const OK: &str = "scenario\tfentry\tipv6\tok\t1200\t";
    const NA: &str = "scenario\tfentry\tmptcp\tn/a\t3\tno MPTCP in this kernel";
    const CLOSING: &str = "scenarios: 1 passed, 0 failed, 1 not applicable";

    #[test]
    fn a_complete_suite_passes() {
        let matrix = suite(&[OK, NA, "note\tfast", CLOSING], Ok(0));
        assert_eq!(matrix.counts(), (1, 0));
        let shown = matrix.to_string();
        assert!(shown.contains("ipv6   ✓"), "{shown}");
        assert!(
            shown.contains("– 6.1 fentry: mptcp: no MPTCP in this kernel"),
            "{shown}"
        );
    }

    #[test]
    fn what_is_quarantined_is_shown() {
        let line = "scenario\tfentry\tipv6\tQUAR\t1\tthe kernel";
        let matrix = suite(&[line, CLOSING], Ok(0));
        assert_eq!((matrix.counts(), matrix.quarantined()), ((0, 0), 1));
        let shown = matrix.to_string();
        assert!(shown.contains("q 6.1 fentry: ipv6: the kernel"), "{shown}");
    }

    #[test]
    fn anything_missing_is_a_failure() {
        assert_eq!(suite(&[OK], Ok(0)).counts(), (1, 1), "no closing line");
        assert_eq!(suite(&[CLOSING], Ok(0)).counts(), (0, 1), "no scenario");
        assert_eq!(suite(&[OK, CLOSING], Ok(3)).counts(), (1, 1), "exit code");
        assert_eq!(
            suite(&[OK, CLOSING], Err(anyhow::anyhow!("panic"))).counts(),
            (1, 1),
            "dead guest"
        );
        let failed = "scenario\tfentry\tipv6\tFAIL\t1\twrong";
        let matrix = suite(&[failed, "    3, not 4", CLOSING], Ok(1));
        assert_eq!(matrix.counts(), (0, 1));
        let shown = matrix.to_string();
        assert!(
            shown.ends_with("✗ 6.1 fentry: ipv6: wrong\n    3, not 4\n"),
            "{shown}"
        );
    }
}
