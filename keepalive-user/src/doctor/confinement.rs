//! What each command gives up on this machine once its privileged part is over, found out by giving
//! it up on threads that then end.

use std::io::Write;

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Status, line};
use crate::{
    output::escape,
    sandbox::{self, Needs, Owners, Sandbox, capabilities::KEPT},
};

/// What the sandbox does here.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SandboxReport {
    status: Status,
    commands: Vec<CommandReport>,
    /// All that may be kept, for what, and when.
    capabilities: Vec<KeptReport>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CommandReport {
    commands: Vec<&'static str>,
    /// Kept after attaching, or after listing.
    capabilities: Vec<String>,
    /// How many system calls are allowed; null = all, there is no filter.
    system_calls: Option<usize>,
    /// How far Landlock is applied; null = not at all.
    landlock: Option<String>,
    /// What could not be applied, with the reason.
    not_applied: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct KeptReport {
    name: &'static str,
    purpose: &'static str,
    /// Empty = always.
    only: &'static str,
}

impl SandboxReport {
    pub fn find_out(with_sock_diag: bool) -> Self {
        let listing = Needs {
            sock_diag: with_sock_diag,
            ..Needs::listing()
        };
        let commands: [(&[&str], Needs); 4] = [
            (&["trace"], Needs::tracing(Owners::Proc)),
            (&["top"], Needs::screen(Owners::Proc)),
            (
                &["list --watch", "explain --follow", "explain --watch"],
                listing,
            ),
            (&["list", "audit", "explain", "doctor"], Needs::printing()),
        ];
        let tried =
            commands.map(|(names, needs)| CommandReport::of(names, sandbox::try_out(&needs)));
        // What the last one cannot have this machine does not allow; the others do not want it.
        let status = if tried.iter().any(|it| it.system_calls.is_none())
            || tried.last().is_some_and(|it| !it.not_applied.is_empty())
        {
            Status::Degraded
        } else {
            Status::Ok
        };
        Self {
            status,
            commands: tried.into(),
            capabilities: KEPT
                .iter()
                .map(|kept| KeptReport {
                    name: kept.name,
                    purpose: kept.purpose,
                    only: kept.only,
                })
                .collect(),
        }
    }

    /// Its lines of the screen.
    pub fn print(&self, verbose: bool, out: &mut impl Write) -> Result<()> {
        let text = "what each command keeps once it has attached or listed:";
        line(out, "sandbox", self.status, text)?;
        for command in &self.commands {
            let capabilities = match command.capabilities.as_slice() {
                [] => "no capabilities".to_owned(),
                kept => kept.join(", "),
            };
            let calls = command
                .system_calls
                .map_or("all system calls".to_owned(), |count| {
                    format!("{count} system calls")
                });
            let names = command.commands.join(", ");
            let landlock = command.landlock.as_ref().map_or("", |_| ", Landlock");
            writeln!(out, "{:28}{names}: {capabilities}, {calls}{landlock}", "")?;
            let shown = command
                .not_applied
                .iter()
                .filter(|_| verbose || self.status != Status::Ok);
            for missing in shown {
                writeln!(out, "{:30}not applied: {}", "", escape(missing))?;
            }
        }
        if verbose {
            for kept in &self.capabilities {
                let only = match kept.only {
                    "" => String::new(),
                    only => format!(", {only}"),
                };
                writeln!(out, "{:28}{}: {}{only}", "", kept.name, kept.purpose)?;
            }
        }
        Ok(())
    }
}

impl CommandReport {
    fn of(names: &[&'static str], sandbox: Sandbox) -> Self {
        Self {
            commands: names.to_vec(),
            capabilities: sandbox.kept,
            system_calls: sandbox.system_calls,
            landlock: sandbox.landlock,
            not_applied: sandbox.missing,
        }
    }
}
