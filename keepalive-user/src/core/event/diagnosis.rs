//! What `keepalive doctor` prints.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Backend, ListSource};

/// The whole diagnosis, the JSON of `doctor --json`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Doctor")]
pub struct Diagnosis {
    pub version: &'static str,
    pub kernel: String,
    /// The backend `trace` will use; null = it will not work.
    pub backend: Option<Backend>,
    pub verdict: String,
    pub lockdown: Option<String>,
    pub kptr_restrict: Option<String>,
    pub capabilities: Vec<CapabilityReport>,
    /// The privileges that each command drops after its start.
    pub sandbox: SandboxReport,
    pub layout: LayoutReport,
    pub backends: Vec<BackendReport>,
    pub list: ListReport,
    pub sysctls: Vec<(&'static str, Option<String>)>,
    pub ring_bytes: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct CapabilityReport {
    pub name: &'static str,
    pub held: bool,
    pub required: bool,
    pub purpose: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct LayoutReport {
    pub status: Status,
    pub error: Option<String>,
    pub keepalive_timer: Option<&'static str>,
    pub write_timer: Option<&'static str>,
    /// Optional fields this kernel does not have.
    pub absent: Vec<&'static str>,
    /// Every field that programs read, and how the self-test verifies it. Empty without a layout.
    pub fields: Vec<FieldReport>,
    /// Whether this kernel runs no program while process 1 is the current task; timer runs then are
    /// counted as missed. Null if unknown.
    pub withholds_from_init: Option<bool>,
}

/// One field of the kernel that programs read.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FieldReport {
    pub name: &'static str,
    /// Where this kernel has it: `struct.member`, or an enumerator. Null if this kernel does not have it,
    /// and for a computed value.
    pub member: Option<&'static str>,
    /// Bytes from the start of the struct.
    pub offset: Option<u32>,
    /// Bytes.
    pub size: Option<u32>,
    /// The value of a length or mask, for a field that is not a member.
    pub value: Option<u32>,
    /// Whether tracing requires this field.
    pub required: bool,
    /// What is not available because this kernel does not have the field.
    pub lost: Option<&'static str>,
    pub compared: Compared,
    /// What the self-test compares it with, or why it does not compare it.
    pub comparison: &'static str,
}

/// Whether the self-test compares what programs read with what the kernel reports by other interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    Yes,
    /// The value is 0 for the socket of the self-test; a wrong offset may contain 0 as well.
    AsZero,
    No,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct BackendReport {
    pub backend: Backend,
    pub status: Status,
    pub error: Option<String>,
    pub self_test: Status,
    pub hz: Option<u32>,
    pub hooks: Vec<HookReport>,
}

/// Which source `list` can use.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListReport {
    pub status: Status,
    pub source: Option<ListSource>,
    /// Why a better source, or any source, is not available.
    pub reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct HookReport {
    pub at: String,
    pub status: Status,
    pub reason: Option<String>,
    pub lost: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    /// Works, but does not observe everything.
    Degraded,
    Refused,
}

/// Which sandbox is applied here.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SandboxReport {
    pub status: Status,
    pub commands: Vec<CommandReport>,
    /// Every capability that may be kept, what it is for, and when.
    pub capabilities: Vec<KeptReport>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct CommandReport {
    pub commands: Vec<&'static str>,
    /// Capabilities kept after attaching, or after listing.
    pub capabilities: Vec<String>,
    /// How many system calls are allowed; null = all, no filter is installed.
    pub system_calls: Option<usize>,
    /// How far Landlock is applied; null = not at all.
    pub landlock: Option<String>,
    /// What could not be applied, with the reason.
    pub not_applied: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct KeptReport {
    pub name: &'static str,
    pub purpose: &'static str,
    /// Empty = always.
    pub only: &'static str,
}
