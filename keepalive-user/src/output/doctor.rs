//! The screen of `keepalive doctor`.

use std::io::Write;

use anyhow::Result;

use crate::core::{
    event::{
        BackendReport, Compared, Diagnosis, FieldReport, HookReport, LayoutReport, ListReport,
        ListSource, SandboxReport, Status,
    },
    format::escape,
};

/// Printed for a kernel that has `bpf_prog_aux.init_owned`.
const WITHHELD: &str = "this kernel runs no BPF program while process 1 is the current task; \
                        timers that run then are counted as missed";

/// Prints the screen.
pub fn text(report: &Diagnosis, verbose: bool, out: &mut impl Write) -> Result<()> {
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
    if verbose {
        for field in &report.layout.fields {
            writeln!(out, "{:28}{}", "", field_text(field))?;
        }
    }
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
        // The line of a refused backend has the reason, which its hooks share.
        if backend.status == Status::Degraded || verbose {
            refused_hooks(backend, out)?;
        }
    }
    line(out, "list", report.list.status, &list_text(&report.list))?;
    print_sandbox(&report.sandbox, verbose, out)?;
    print_machine(report, out)?;
    writeln!(out, "\n{}.", escape(&report.verdict))?;
    Ok(())
}

/// Prints the hooks that are refused; those with the reason of the backend together.
fn refused_hooks(backend: &BackendReport, out: &mut impl Write) -> Result<()> {
    let is_reported = |hook: &HookReport| {
        let (error, reason) = (backend.error.as_ref(), hook.reason.as_deref());
        error
            .zip(reason)
            .is_some_and(|(error, reason)| error.ends_with(reason))
    };
    let refused = backend.hooks.iter();
    let refused = refused.filter(|hook| hook.status != Status::Ok);
    let (same, others): (Vec<_>, Vec<_>) = refused.partition(|hook| is_reported(hook));
    // The first one is in the line of the backend.
    if same.len() > 1 {
        let names: Vec<&str> = same.iter().map(|hook| &*hook.at).collect();
        writeln!(out, "{:28}the same for {}", "", escape(&names.join(", ")))?;
    }
    for hook in others {
        let lost = hook
            .lost
            .map_or(String::new(), |lost| format!("; not seen: {lost}"));
        let reason = hook.reason.as_deref().unwrap_or_default();
        writeln!(out, "{:28}{}: {}{lost}", "", hook.at, escape(reason))?;
    }
    Ok(())
}

/// Prints the settings of the machine.
fn print_machine(report: &Diagnosis, out: &mut impl Write) -> Result<()> {
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

/// `icsk_rto: inet_connection_sock.icsk_rto at 1184, 4 bytes; compared: TCP_INFO tcpi_rto`.
fn field_text(field: &FieldReport) -> String {
    let place = match (field.member, field.offset, field.size, field.value) {
        (Some(member), Some(offset), Some(size), _) => {
            format!("{member} at {offset}, {size} bytes")
        }
        (Some(member), .., Some(value)) => format!("{member}, mask {value:#x}"),
        (None, .., Some(value)) => value.to_string(),
        _ => "absent".to_owned(),
    };
    let optional = if field.required { "" } else { ", optional" };
    let lost = field
        .lost
        .map_or(String::new(), |lost| format!("; lost: {lost}"));
    let compared = match field.compared {
        Compared::Yes => "compared",
        Compared::AsZero => "compared as 0",
        Compared::No => "not compared",
    };
    let FieldReport {
        name, comparison, ..
    } = field;
    format!("{name}: {place}{optional}{lost}; {compared}: {comparison}")
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

fn list_text(list: &ListReport) -> String {
    let source = match list.source {
        Some(ListSource::Iterator) => "by BPF iterator: all timers and settings of every socket",
        Some(ListSource::SockDiag) => "by sock_diag: one timer per socket, settings by pidfd_getfd",
        None => "",
    };
    match &list.reason {
        Some(reason) if list.source.is_none() => reason.clone(),
        Some(reason) => format!("{source} ({reason})"),
        None => source.to_owned(),
    }
}

/// Prints the lines about the sandbox.
fn print_sandbox(sandbox: &SandboxReport, verbose: bool, out: &mut impl Write) -> Result<()> {
    let text = "what each command keeps after it has attached or listed:";
    line(out, "sandbox", sandbox.status, text)?;
    for command in &sandbox.commands {
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
            .filter(|_| verbose || sandbox.status != Status::Ok);
        for missing in shown {
            writeln!(out, "{:30}not applied: {}", "", escape(missing))?;
        }
    }
    if verbose {
        for kept in &sandbox.capabilities {
            let only = match kept.only {
                "" => String::new(),
                only => format!(", {only}"),
            };
            writeln!(out, "{:28}{}: {}{only}", "", kept.name, kept.purpose)?;
        }
    }
    Ok(())
}
