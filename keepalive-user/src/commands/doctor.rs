//! `keepalive doctor`: one screen that shows whether `trace` works on this machine, by trying: the kernel's
//! exports, the capabilities of this process, the result of every hook of every backend, and the remedy for
//! each failure.

use std::io::Write;

use anyhow::Result;
use keepalive_ebpf::{Comparison, FieldKind, FieldNeed, Snapshot};

use crate::{
    cli::Doctor,
    core::{
        event::{
            Backend, BackendReport, CapabilityReport, CommandReport, Compared, Diagnosis,
            FieldReport, HookReport, KeptReport, LayoutReport, ListReport, ListSource,
            SandboxReport, Status,
        },
        exit::Exit,
    },
    machine::{
        bpf::{Kernel, Options, hooks, layout::Row, survey::Survey},
        files,
        listing::Lister,
        namespace::Namespace,
        privileges,
        sandbox::{self, Needs, OwnerLookup, Sandbox, capabilities::KEPT},
    },
    output::doctor,
};

const SYSCTLS: [&str; 4] = [
    "tcp_keepalive_time",
    "tcp_keepalive_intvl",
    "tcp_keepalive_probes",
    "tcp_retries2",
];

/// Runs the checks and prints them; the exit code is 0 if `trace` works.
pub fn run(arguments: &Doctor) -> Result<Exit> {
    let options = Options {
        backend: arguments.loading.backend.backend(),
        ring_bytes: arguments.loading.ring_bytes,
        btf: arguments.loading.btf.clone(),
        live_answers: true,
        ..Options::default()
    };
    let (report, exit) = examine(&options);
    arguments
        .loading
        .sandbox
        .confinement()
        .enter(&Needs::printing());
    let mut out = anstream::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        doctor::text(&report, arguments.verbose, &mut out)?;
    }
    Ok(exit)
}

fn examine(options: &Options) -> (Diagnosis, Exit) {
    let missing = privileges::missing();
    let kernel = Kernel::read(options);
    let backends: Vec<BackendReport> = match &kernel {
        Ok(kernel) => Backend::candidates(options.backend)
            .map(|backend| report_on(&Survey::of(backend, kernel, options)))
            .collect(),
        Err(_) => Vec::new(),
    };
    let backend = backends
        .iter()
        .find(|report| report.status != Status::Refused)
        .map(|report| report.backend);
    let (verdict, exit) = match (backend, &kernel) {
        (Some(backend), _) => (
            format!("trace will work, with the {} backend", backend.name()),
            Exit::Success,
        ),
        (None, _) if !missing.is_empty() => (
            format!("trace will not work: {}", privileges::remedy(&missing)),
            Exit::NotPermitted,
        ),
        (None, Err(error)) => (format!("trace will not work: {error:#}"), Exit::Unsupported),
        (None, Ok(_)) => (
            "trace will not work: every backend is refused".to_owned(),
            Exit::Unsupported,
        ),
    };
    let list = list_report(options);
    let report = Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        kernel: files::kernel_release(),
        backend,
        verdict,
        lockdown: lockdown(),
        kptr_restrict: read_line("/proc/sys/kernel/kptr_restrict"),
        capabilities: capability_reports(),
        sandbox: sandbox_report(list.source != Some(ListSource::Iterator)),
        layout: layout_report(&kernel),
        backends,
        list,
        sysctls: SYSCTLS
            .iter()
            .map(|&name| (name, read_line(&format!("/proc/sys/net/ipv4/{name}"))))
            .collect(),
        ring_bytes: options.ring_bytes,
    };
    (report, exit)
}

fn capability_reports() -> Vec<CapabilityReport> {
    let reports = privileges::all()
        .into_iter()
        .map(|privilege| CapabilityReport {
            name: privilege.name,
            held: privilege.held,
            required: privilege.required,
            purpose: privilege.purpose,
        });
    reports.collect()
}

fn layout_report(kernel: &Result<Kernel>) -> LayoutReport {
    match kernel {
        Ok(kernel) => LayoutReport {
            status: Status::Ok,
            error: None,
            keepalive_timer: Some(kernel.resolved.keepalive_timer()),
            write_timer: Some(kernel.resolved.write_timer()),
            absent: kernel.resolved.absent(),
            fields: kernel.resolved.rows.iter().map(field_report).collect(),
            withholds_from_init: Some(kernel.resolved.withholds_from_init),
        },
        Err(error) => LayoutReport {
            status: Status::Refused,
            error: Some(format!("{error:#}")),
            keepalive_timer: None,
            write_timer: None,
            absent: Vec::new(),
            fields: Vec::new(),
            withholds_from_init: None,
        },
    }
}

fn field_report(row: &Row) -> FieldReport {
    let is_offset = match row.field.kind {
        FieldKind::Socket | FieldKind::Common | FieldKind::Mini | FieldKind::Other => true,
        FieldKind::SocketLength | FieldKind::MiniLength | FieldKind::Flag | FieldKind::Tag(_) => {
            false
        }
    };
    let lost = match row.field.need {
        FieldNeed::Optional(lost) => Some(lost),
        FieldNeed::Required | FieldNeed::Instead(_) => None,
    };
    let (compared, comparison) = match row.field.comparison {
        Comparison::Compared(with) => (Compared::Yes, with),
        Comparison::AsZero(with) => (Compared::AsZero, with),
        Comparison::NotCompared(why) => (Compared::No, why),
    };
    FieldReport {
        name: row.field.name,
        member: row.member,
        offset: (is_offset && row.member.is_some()).then_some(row.word),
        size: row.member.filter(|_| is_offset).map(|_| row.size),
        value: (!is_offset).then_some(row.word),
        required: row.field.need == FieldNeed::Required,
        lost: lost.filter(|_| row.member.is_none()),
        compared,
        comparison,
    }
}

/// Lists the sockets of this namespace, and reports the source.
fn list_report(options: &Options) -> ListReport {
    let listed = Lister::open(None, options).and_then(|mut lister| {
        let listing = lister.list(&[Namespace::current()?], false, &|_: &Snapshot| false)?;
        Ok((listing.source, lister.refused))
    });
    match listed {
        Ok((source, refused)) => ListReport {
            status: if refused.is_empty() {
                Status::Ok
            } else {
                Status::Degraded
            },
            source: Some(source),
            reason: refused.first().map(|refused| refused.reason.clone()),
        },
        Err(error) => ListReport {
            status: Status::Refused,
            source: None,
            reason: Some(format!("{error:#}")),
        },
    }
}

fn report_on(survey: &Survey) -> BackendReport {
    let hooks: Vec<HookReport> = survey
        .hooks
        .iter()
        .map(|(hook, refused)| HookReport {
            at: hook.at.describe(),
            status: match (refused, hook.need) {
                (None, _) => Status::Ok,
                (Some(_), hooks::HookNeed::Required) => Status::Refused,
                (Some(_), _) => Status::Degraded,
            },
            reason: refused.clone(),
            lost: refused.as_ref().and(match hook.need {
                hooks::HookNeed::Required => None,
                hooks::HookNeed::Optional(lost) => Some(lost),
                hooks::HookNeed::LiveAnswers => Some("--live-answers"),
            }),
        })
        .collect();
    let first_refused = hooks.iter().find(|hook| hook.status == Status::Refused);
    let error = survey
        .load_error
        .clone()
        .or_else(|| {
            first_refused
                .map(|hook| format!("{}: {}", hook.at, hook.reason.clone().unwrap_or_default()))
        })
        .or_else(|| survey.self_test.as_ref().err().cloned());
    let status = match &error {
        Some(_) => Status::Refused,
        None if hooks.iter().any(|hook| hook.status != Status::Ok) => Status::Degraded,
        None => Status::Ok,
    };
    BackendReport {
        backend: survey.backend,
        status,
        error,
        self_test: if survey.self_test.is_ok() {
            Status::Ok
        } else {
            Status::Refused
        },
        hz: survey.self_test.as_ref().ok().map(|learned| learned.hz),
        hooks,
    }
}

/// `none [integrity] confidentiality` → `integrity`.
fn lockdown() -> Option<String> {
    let Ok(modes) = files::read_kernel("/sys/kernel/security/lockdown") else {
        return None;
    };
    let chosen = modes.split_once('[')?.1.split_once(']')?.0;
    Some(chosen.to_owned())
}

fn read_line(path: &str) -> Option<String> {
    Some(files::read_kernel(path).ok()?.trim_end().to_owned())
}

/// The restrictions of each command on this machine after its privileged part, found by applying them on
/// threads that then end.
fn sandbox_report(with_sock_diag: bool) -> SandboxReport {
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
    let tried = commands.map(|(names, needs)| command_report(names, sandbox::try_out(&needs)));
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
