//! # `keepalive doctor`
//!
//! One screen that says whether `trace` will work on this machine, by trying: what the kernel
//! shows of itself, what we may do, how every hook of every backend fares, and what to do about
//! what does not work.

mod confinement;

use std::io::Write;

use anyhow::Result;
use keepalive_ebpf::Snapshot;
use schemars::JsonSchema;
use serde::Serialize;

use self::confinement::SandboxReport;
use crate::{
    cli::Doctor,
    event::{Backend, ListSource},
    exit::Exit,
    files,
    listing::Lister,
    namespace::Namespace,
    output::escape,
    privileges,
    sandbox::Needs,
    source::{Kernel, Options, hooks::Need, survey::Survey},
};

/// The whole finding, the JSON of `doctor --json`.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(title = "Doctor")]
pub struct Report {
    version: &'static str,
    kernel: String,
    /// The backend `trace` will use; null = it will not work.
    backend: Option<Backend>,
    verdict: String,
    lockdown: Option<String>,
    kptr_restrict: Option<String>,
    capabilities: Vec<CapabilityReport>,
    /// What each command gives up after its start.
    sandbox: SandboxReport,
    layout: LayoutReport,
    backends: Vec<BackendReport>,
    list: ListReport,
    sysctls: Vec<(&'static str, Option<String>)>,
    ring_bytes: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CapabilityReport {
    name: &'static str,
    held: bool,
    required: bool,
    purpose: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct LayoutReport {
    status: Status,
    error: Option<String>,
    keepalive_timer: Option<&'static str>,
    write_timer: Option<&'static str>,
    /// Optional fields this kernel does not have.
    absent: Vec<&'static str>,
    /// Whether this kernel runs no program while process 1 is the current task; what timers do then
    /// is counted as missed. Null if unknown.
    withholds_from_init: Option<bool>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct BackendReport {
    backend: Backend,
    status: Status,
    error: Option<String>,
    self_test: Status,
    hz: Option<u32>,
    hooks: Vec<HookReport>,
}

/// How `list` fares.
#[derive(Debug, Serialize, JsonSchema)]
struct ListReport {
    status: Status,
    source: Option<ListSource>,
    /// Why not a better source, or none.
    reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct HookReport {
    at: String,
    status: Status,
    reason: Option<String>,
    lost: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// Works, but something is not seen.
    Degraded,
    Refused,
}

const SYSCTLS: [&str; 4] = [
    "tcp_keepalive_time",
    "tcp_keepalive_intvl",
    "tcp_keepalive_probes",
    "tcp_retries2",
];

/// What a kernel does that has `bpf_prog_aux.init_owned`.
const WITHHELD: &str = "this kernel runs none while process 1 is the current task; timers that run \
                        then are counted as missed";

/// Runs the checks and prints them; the exit code says whether `trace` will work.
pub fn run(arguments: &Doctor) -> Result<Exit> {
    let options = Options {
        backend: arguments.loading.backend.backend(),
        ring_bytes: arguments.loading.ring_bytes,
        btf: arguments.loading.btf.clone(),
        live_answers: true,
        ..Options::default()
    };
    let (report, exit) = examine(&options);
    arguments.loading.sandbox.enter(&Needs::printing());
    let mut out = anstream::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&report, arguments.verbose, &mut out)?;
    }
    Ok(exit)
}

fn examine(options: &Options) -> (Report, Exit) {
    let missing = privileges::missing();
    let kernel = Kernel::read(options);
    let backends: Vec<BackendReport> = match &kernel {
        Ok(kernel) => {
            let wanted = options
                .backend
                .as_ref()
                .map_or(&Backend::ALL[..], std::slice::from_ref);
            wanted
                .iter()
                .map(|&backend| report_on(&Survey::of(backend, kernel, options)))
                .collect()
        }
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
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: crate::session::kernel_release(),
        backend,
        verdict,
        lockdown: lockdown(),
        kptr_restrict: read_line("/proc/sys/kernel/kptr_restrict"),
        capabilities: capability_reports(),
        sandbox: SandboxReport::find_out(list.source != Some(ListSource::Iterator)),
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
            keepalive_timer: Some(kernel.resolved.keepalive_timer),
            write_timer: Some(kernel.resolved.write_timer),
            absent: kernel.resolved.absent.clone(),
            withholds_from_init: Some(kernel.resolved.withholds_from_init),
        },
        Err(error) => LayoutReport {
            status: Status::Refused,
            error: Some(format!("{error:#}")),
            keepalive_timer: None,
            write_timer: None,
            absent: Vec::new(),
            withholds_from_init: None,
        },
    }
}

/// Lists the sockets of this namespace, and sees from where.
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

fn list_text(list: &ListReport) -> String {
    let source = match list.source {
        Some(ListSource::Iterator) => "by BPF iterator: all timers and settings of every socket",
        Some(ListSource::SockDiag) => "by sock_diag: one timer per socket, settings by copies",
        None => "",
    };
    match &list.reason {
        Some(reason) if list.source.is_none() => reason.clone(),
        Some(reason) => format!("{source} ({reason})"),
        None => source.to_owned(),
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
                (Some(_), Need::Required) => Status::Refused,
                (Some(_), _) => Status::Degraded,
            },
            reason: refused.clone(),
            lost: refused.as_ref().and(match hook.need {
                Need::Required => None,
                Need::Optional(lost) => Some(lost),
                Need::LiveAnswers => Some("--live-answers"),
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

/// The screen.
fn print(report: &Report, verbose: bool, out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "keepalive {} on Linux {}\n",
        report.version,
        escape(&report.kernel)
    )?;
    line(
        out,
        "layout",
        report.layout.status,
        &layout_text(&report.layout),
    )?;
    if report.layout.withholds_from_init == Some(true) {
        line(out, "programs", Status::Degraded, WITHHELD)?;
    }
    for capability in &report.capabilities {
        let status = match (capability.held, capability.required) {
            (true, _) => Status::Ok,
            (false, true) => Status::Refused,
            (false, false) => Status::Degraded,
        };
        line(out, capability.name, status, capability.purpose)?;
    }
    for backend in &report.backends {
        line(
            out,
            backend.backend.name(),
            backend.status,
            &backend_text(backend),
        )?;
        // The line of a refused backend says it all: its hooks share the reason.
        let shown = backend.status == Status::Degraded || verbose;
        for hook in backend
            .hooks
            .iter()
            .filter(|hook| shown && hook.status != Status::Ok)
        {
            let lost = hook
                .lost
                .map_or(String::new(), |lost| format!("; not seen: {lost}"));
            let reason = hook.reason.as_deref().unwrap_or_default();
            writeln!(out, "{:28}{}: {}{lost}", "", hook.at, escape(reason))?;
        }
    }
    line(out, "list", report.list.status, &list_text(&report.list))?;
    report.sandbox.print(verbose, out)?;
    print_machine(report, out)?;
    writeln!(out, "\n{}.", escape(&report.verdict))?;
    Ok(())
}

/// What the machine is set to.
fn print_machine(report: &Report, out: &mut impl Write) -> Result<()> {
    let or_unknown =
        |value: &Option<String>| escape(value.as_deref().unwrap_or("unknown")).into_owned();
    writeln!(out, "{:18}{}", "lockdown", or_unknown(&report.lockdown))?;
    writeln!(
        out,
        "{:18}{}",
        "kptr_restrict",
        or_unknown(&report.kptr_restrict)
    )?;
    let sysctls: Vec<String> = report
        .sysctls
        .iter()
        .map(|(name, value)| format!("{name} {}", or_unknown(value)))
        .collect();
    writeln!(out, "{:18}{}", "sysctls", sysctls.join(", "))?;
    writeln!(out, "{:18}{} KiB", "ring buffer", report.ring_bytes / 1024)?;
    Ok(())
}

fn line(out: &mut impl Write, name: &str, status: Status, text: &str) -> Result<()> {
    use anstyle::{AnsiColor, Style};
    let (word, colour) = match status {
        Status::Ok => ("ok", AnsiColor::Green),
        Status::Degraded => ("degraded", AnsiColor::Yellow),
        Status::Refused => ("refused", AnsiColor::Red),
    };
    let style = Style::new().fg_color(Some(colour.into()));
    writeln!(out, "{name:18}{style}{word:10}{style:#}{}", escape(text))?;
    Ok(())
}

fn layout_text(layout: &LayoutReport) -> String {
    if let Some(error) = &layout.error {
        return error.clone();
    }
    let timers = [layout.keepalive_timer, layout.write_timer].map(Option::unwrap_or_default);
    let absent = match layout.absent.as_slice() {
        [] => String::new(),
        absent => format!("; not in this kernel: {}", absent.join(", ")),
    };
    format!(
        "keepalive timer is {}, write timer {}{absent}",
        timers[0], timers[1]
    )
}

fn backend_text(backend: &BackendReport) -> String {
    match (&backend.error, backend.hz) {
        (Some(error), _) => error.clone(),
        (None, hz) => {
            let attached = backend
                .hooks
                .iter()
                .filter(|hook| hook.status == Status::Ok)
                .count();
            format!(
                "{attached} of {} hooks, self-test passed, HZ {}",
                backend.hooks.len(),
                hz.unwrap_or_default()
            )
        }
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
