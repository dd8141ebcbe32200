//! What `keepalive audit` prints: a line for each finding, and one at the end.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoStaticStr};

use super::{Incomplete, ListSource, Process, Socket, When};

/// One line of `keepalive audit --json`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AuditLine {
    Finding(Box<Finding>),
    /// Last line: totals, and what could not be judged.
    AuditEnd(AuditEnd),
}

/// A rule that a socket, or a network namespace, breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    #[serde(flatten)]
    pub when: When,
    /// Name of the rule (`keepalive audit --help` lists them).
    pub rule: String,
    pub severity: Severity,
    /// Null for a finding about a whole namespace.
    pub socket: Option<Socket>,
    pub process: Option<Arc<Process>>,
    pub container_id: Option<Arc<str>>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// What was found.
    pub evidence: String,
    /// What it leads to, and when.
    pub consequence: String,
    /// What to set, and where.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    EnumIter,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Connections will break, or be found broken late.
    Warning,
    /// Something is broken now and will stay so.
    Critical,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AuditEnd {
    #[serde(flatten)]
    pub when: When,
    pub source: ListSource,
    /// Sockets that were judged.
    pub sockets: u64,
    /// Sockets that have keepalive settings, but whose settings are unknown.
    pub not_judged: u64,
    /// Findings, by rule.
    pub findings: BTreeMap<String, u64>,
    /// Findings suppressed by the ignore file or `--ignore`.
    pub ignored: u64,
    pub incomplete: Vec<Incomplete>,
}
