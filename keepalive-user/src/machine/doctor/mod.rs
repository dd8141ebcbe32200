//! # The checks of `doctor`
//!
//! Whether `trace` works on this machine, by trying: the kernel's exports, the capabilities of this process,
//! the result of every hook of every backend, and the remedy for each failure.

mod backend;
mod layout;
mod sandbox;

use keepalive_ebpf::Snapshot;
use strum::IntoEnumIterator;

use self::backend::LIVE_ANSWERS;
use super::{
    bpf::{Kernel, Options, survey::Survey},
    files,
    listing::Lister,
    namespace::Namespace,
    privileges,
};
use crate::core::{
    event::{
        Backend, BackendReport, Diagnosis, LayoutReport, ListReport, ListSource, Status, Sysctl,
    },
    exit::Exit,
    format::name,
};

/// Runs all checks; the exit code is 0 if `trace` works.
pub fn examine(options: &Options) -> (Diagnosis, Exit) {
    let missing = privileges::missing();
    let kernel = Kernel::read(options);
    let backends: Vec<BackendReport> = match &kernel {
        Ok(kernel) => Backend::candidates(options.backend)
            .map(|backend| backend::report(&Survey::of(backend, kernel, options)))
            .collect(),
        Err(_) => Vec::new(),
    };
    let chosen_backend = backends
        .iter()
        .find(|report| report.status != Status::Refused);
    let backend = chosen_backend.map(|report| report.backend);
    let layout = layout::report(&kernel);
    let unseen = chosen_backend.map_or(Vec::new(), |report| unseen(report, &layout));
    let (verdict, exit) = verdict(backend, &unseen, &missing, kernel.as_ref().err());
    let list = list_report(options);
    let report = Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        kernel: files::kernel_release(),
        backend,
        verdict,
        lockdown: read_line("/sys/kernel/security/lockdown")
            .and_then(|modes| chosen(&modes).map(str::to_owned)),
        kptr_restrict: read_line("/proc/sys/kernel/kptr_restrict"),
        capabilities: privileges::all(),
        sandbox: sandbox::report(list.source != Some(ListSource::Iterator)),
        layout,
        backends,
        list,
        sysctls: Sysctl::iter()
            .map(name)
            .map(|name| (name, read_line(&format!("/proc/sys/net/ipv4/{name}"))))
            .collect(),
        ring_bytes: options.ring_bytes,
    };
    (report, exit)
}

/// What a trace with this backend will not see.
fn unseen(backend: &BackendReport, layout: &LayoutReport) -> Vec<&'static str> {
    let withheld = layout.withholds_from_init == Some(true);
    let withheld = withheld.then_some("what happens while process 1 is the current task");
    // --live-answers is an option, and off.
    let lost = backend.hooks.iter().filter_map(|hook| hook.lost);
    let lost = lost.filter(|lost| *lost != LIVE_ANSWERS);
    withheld.into_iter().chain(lost).collect()
}

/// Whether `trace` will work, what it will not see, and the exit code.
fn verdict(
    backend: Option<Backend>,
    unseen: &[&str],
    missing: &[&str],
    unreadable: Option<&anyhow::Error>,
) -> (String, Exit) {
    let (reason, exit) = match (backend, unreadable) {
        (Some(backend), _) => {
            let mut verdict = format!("trace will work, with the {} backend", backend.name());
            if !unseen.is_empty() {
                verdict += &format!("; it will not see: {}", unseen.join(", "));
            }
            return (verdict, Exit::Success);
        }
        (None, _) if !missing.is_empty() => (privileges::remedy(missing), Exit::NotPermitted),
        (None, Some(error)) => (format!("{error:#}"), Exit::Unsupported),
        (None, None) => ("every backend is refused".to_owned(), Exit::Unsupported),
    };
    (format!("trace will not work: {reason}"), exit)
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

/// `none [integrity] confidentiality` → `integrity`.
fn chosen(modes: &str) -> Option<&str> {
    Some(modes.split_once('[')?.1.split_once(']')?.0)
}

fn read_line(path: &str) -> Option<String> {
    Some(files::read_kernel(path).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_first_backend_that_works_decides_then_privileges_then_the_kernel() {
        let missing = ["CAP_BPF"];
        let error = anyhow!("no BTF");
        let cases = [
            (
                Some(Backend::Fentry),
                &missing[..],
                None,
                Exit::Success,
                "the fentry backend; it will not see: zero-window probes",
            ),
            (
                None,
                &missing,
                Some(&error),
                Exit::NotPermitted,
                "missing CAP_BPF",
            ),
            (
                None,
                &[],
                Some(&error),
                Exit::Unsupported,
                "will not work: no BTF",
            ),
            (
                None,
                &[],
                None,
                Exit::Unsupported,
                "every backend is refused",
            ),
        ];
        for (backend, missing, error, expected, words) in cases {
            let (text, exit) = verdict(backend, &["zero-window probes"], missing, error);
            assert_eq!(exit, expected);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn the_mode_in_brackets_is_in_force() {
        assert_eq!(
            chosen("none [integrity] confidentiality"),
            Some("integrity")
        );
        assert_eq!(chosen(""), None);
    }
}
