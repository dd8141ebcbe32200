//! The sandbox in the report.

use crate::{
    core::event::{CommandReport, KeptReport, SandboxReport, Status},
    machine::sandbox::{Needs, OwnerLookup, Sandbox, capabilities::KEPT, try_out},
};

/// The restrictions of each command on this machine after its privileged part, found by applying them on
/// threads that then end.
pub fn report(with_sock_diag: bool) -> SandboxReport {
    let listing = Needs {
        sock_diag: with_sock_diag,
        ..Needs::listing()
    };
    let commands: [(&[&str], Needs); 4] = [
        (&["trace"], Needs::tracing(OwnerLookup::Proc)),
        (&["top"], Needs::screen(OwnerLookup::Proc)),
        (
            &["list --watch", "explain --follow", "explain --watch"],
            listing,
        ),
        (&["list", "audit", "explain", "doctor"], Needs::printing()),
    ];
    let tried = commands.map(|(names, needs)| command_report(names, try_out(&needs)));
    // The last command uses every restriction: one that is missing there is not possible on this machine.
    let status = if tried.iter().any(|it| it.system_calls.is_none())
        || tried.last().is_some_and(|it| !it.not_applied.is_empty())
    {
        Status::Degraded
    } else {
        Status::Ok
    };
    SandboxReport {
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

fn command_report(names: &[&'static str], sandbox: Sandbox) -> CommandReport {
    CommandReport {
        commands: names.to_vec(),
        capabilities: sandbox.kept,
        system_calls: sandbox.system_calls,
        landlock: sandbox.landlock,
        not_applied: sandbox.missing,
    }
}
