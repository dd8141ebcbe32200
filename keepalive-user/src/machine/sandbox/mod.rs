//! # The sandbox
//!
//! What a command does not need any more once its privileged part is over it gives up, for good:
//! capabilities, system calls, files. Loading and attaching BPF programs needs root; reading what
//! they report does not. All of it is undone by nothing and holds for every thread that is started
//! later, so it is applied before the command starts any.
//!
//! What a kernel or a container does not allow to be given up is reported with `-v` and by `doctor`;
//! the command runs all the same.

pub mod capabilities;
mod files;
pub mod syscalls;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use rustix::thread::set_no_new_privs;

use super::clock;

/// What a command has to do after its privileged part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Reads the maps of loaded programs, and walks their iterators.
    pub bpf: bool,
    /// Lists sockets again: makes the connection of the self-test, starts iterators, asks sock_diag.
    pub listing: bool,
    /// Asks sock_diag, which does not report MPTCP to everyone.
    pub sock_diag: bool,
    pub owners: Owners,
    /// Enters other network namespaces.
    pub namespaces: bool,
    /// Reads keys from a terminal and draws on it.
    pub terminal: bool,
    /// Directories in which files are created, renamed and removed.
    pub directories: Vec<PathBuf>,
}

/// How the owners of sockets are resolved from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owners {
    /// They are not.
    #[default]
    Resolved,
    /// By the BPF iterator over open files; only names of processes are read from /proc.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for a resolver that needs no other file of /proc")
    )]
    Iterator,
    /// From /proc/PID/fd.
    Proc,
}

impl Needs {
    /// What `trace` does: read the ring and the counters, and resolve owners.
    pub fn tracing(owners: Owners) -> Self {
        Self {
            bpf: true,
            owners,
            ..Self::default()
        }
    }

    /// What `top` does besides: draw, and record here when asked to.
    pub fn screen(owners: Owners) -> Self {
        Self {
            terminal: true,
            directories: vec![PathBuf::from(".")],
            ..Self::tracing(owners)
        }
    }

    /// What is listed is only printed.
    pub fn printing() -> Self {
        Self::default()
    }

    /// Lists again and again.
    pub fn listing() -> Self {
        Self {
            bpf: true,
            listing: true,
            // The fallback where the kernel's process ids are not those of /proc.
            owners: Owners::Proc,
            ..Self::default()
        }
    }

    /// The directory of a file that is created, replaced or rotated later.
    pub fn writes_beside(mut self, file: Option<&Path>) -> Self {
        self.directories.extend(file.map(directory_of));
        self
    }
}

/// The directory in which a file is.
fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// What was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Capabilities that stay.
    pub kept: Vec<String>,
    /// What could not be applied, with the reason.
    pub missing: Vec<String>,
    /// `None` if the filter is refused.
    pub system_calls: Option<usize>,
    /// `None` if Landlock is not applied.
    pub landlock: Option<String>,
}

/// Gives up all that is not needed. All of it is a thread's own, and inherited by those that it starts:
/// a thread that was started before keeps what it has. There is one, which lists the sockets older than
/// a trace, and ends with that.
fn enter(needs: &Needs) -> Sandbox {
    let mut sandbox = apply(needs);
    let others = fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count().saturating_sub(1));
    if others > 0 {
        sandbox.missing.push(format!(
            "{others} threads that were started before keep what they have until they end"
        ));
    }
    for missing in &sandbox.missing {
        log::debug!("sandbox: not applied: {missing}");
    }
    log::debug!("sandbox: {sandbox}");
    sandbox
}

/// Whether a command gives up what it does not need (`--no-sandbox`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confinement {
    Applied,
    Declined,
}

impl Confinement {
    /// As [`enter`], unless it is declined.
    pub fn enter(self, needs: &Needs) {
        match self {
            Self::Applied => drop(enter(needs)),
            Self::Declined => log::debug!("sandbox: not entered (--no-sandbox)"),
        }
    }
}

/// What [`enter`] would do on this machine, found out by doing it on a thread that then ends.
pub fn try_out(needs: &Needs) -> Sandbox {
    std::thread::scope(|scope| {
        scope
            .spawn(|| apply(needs))
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn apply(needs: &Needs) -> Sandbox {
    let mut sandbox = Sandbox::default();
    // Found out while everything is still allowed; also where the clocks are, which asks prctl(2) and may
    // read /proc/self/auxv the first time.
    let _ = clock::monotonic_ns();
    let keep = capabilities::needed(needs);
    // No program that this process starts has more rights than it.
    if let Err(error) = set_no_new_privs(true) {
        sandbox.missing.push(format!("no_new_privs: {error}"));
    }
    match files::restrict(needs) {
        Ok(status) => sandbox.landlock = Some(status),
        Err(reason) => sandbox.missing.push(format!("Landlock: {reason}")),
    }
    sandbox.missing.extend(capabilities::keep_only(&keep));
    sandbox.kept = capabilities::names(&keep);
    match syscalls::restrict(needs) {
        Ok(count) => sandbox.system_calls = Some(count),
        Err(error) => sandbox.missing.push(format!("seccomp: {error:#}")),
    }
    sandbox
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kept.as_slice() {
            [] => write!(f, "no capabilities")?,
            kept => write!(f, "{}", kept.join(", "))?,
        }
        match self.system_calls {
            Some(count) => write!(f, "; {count} system calls")?,
            None => write!(f, "; all system calls")?,
        }
        match &self.landlock {
            Some(status) => write!(f, "; Landlock {status}"),
            None => write!(f, "; no Landlock"),
        }
    }
}

#[cfg(test)]
mod tests;
