//! Findings, worst first, as text and as JSON lines.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};

use super::{
    json::json_line,
    words::{owner, unknown},
};
use crate::core::{
    event::{AuditEnd, AuditLine, Finding, Severity},
    format::{escape, plural},
};

/// How findings are shown.
pub enum AuditOutput<W: Write> {
    Json(W),
    Text(W),
}

impl<W: Write> AuditOutput<W> {
    pub fn new(json: bool, writer: W) -> Self {
        if json {
            Self::Json(writer)
        } else {
            Self::Text(writer)
        }
    }

    pub fn finding(&mut self, finding: Finding) -> Result<()> {
        match self {
            Self::Json(writer) => json_line(&AuditLine::Finding(Box::new(finding)), writer),
            Self::Text(writer) => text(&finding, true, writer).context("cannot write"),
        }
    }

    pub fn end(&mut self, end: AuditEnd) -> Result<()> {
        match self {
            Self::Json(writer) => {
                json_line(&AuditLine::AuditEnd(end), writer)?;
                writer.flush()
            }
            Self::Text(writer) => totals(&end, writer).and_then(|()| writer.flush()),
        }
        .context("cannot write")
    }
}

/// The finding, and below it the consequence and the remedy.
pub fn text(finding: &Finding, colour: bool, writer: &mut impl Write) -> std::io::Result<()> {
    let (name, hue) = match finding.severity {
        Severity::Critical => ("critical", AnsiColor::Red),
        Severity::Warning => ("warning", AnsiColor::Yellow),
        Severity::Info => ("info", AnsiColor::Cyan),
    };
    let style = if colour {
        Style::new().fg_color(Some(hue.into()))
    } else {
        Style::new()
    };
    write!(writer, "{style}{name:8}{style:#}  {:20}  ", finding.rule)?;
    match &finding.socket {
        Some(socket) => writeln!(
            writer,
            "{}  {} → {}",
            owner(finding.process.as_ref()),
            socket.local,
            socket.peer
        )?,
        None => writeln!(writer, "network namespace {}", finding.netns)?,
    }
    writeln!(writer, "          {}", escape(&finding.evidence))?;
    writeln!(writer, "          → {}", escape(&finding.consequence))?;
    writeln!(writer, "          remedy: {}", escape(&finding.remedy))
}

fn totals(end: &AuditEnd, writer: &mut impl Write) -> std::io::Result<()> {
    let rules: Vec<String> = end
        .findings
        .iter()
        .map(|(rule, count)| format!("{count} {rule}"))
        .collect();
    let found = if rules.is_empty() {
        match end.not_judged {
            0 => "no findings".to_owned(),
            _ => "no findings among these".to_owned(),
        }
    } else {
        rules.join(", ")
    };
    writeln!(
        writer,
        "\n{} judged: {found}",
        plural(end.sockets, "socket")
    )?;
    if end.not_judged > 0 {
        let sockets = plural(end.not_judged, "socket");
        writeln!(writer, "{sockets} not judged: keepalive settings unknown")?;
    }
    if end.ignored > 0 {
        writeln!(writer, "{} ignored", plural(end.ignored, "finding"))?;
    }
    unknown(&end.incomplete, writer)
}
