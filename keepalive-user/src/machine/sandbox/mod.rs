//! # The sandbox
//!
//! When the privileged part of a command is over, it drops for good what it does not need any more:
//! capabilities, system calls, files. Loading and attaching BPF programs needs root; reading their records
//! does not. Nothing undoes the restrictions; every thread inherits them from the thread that starts it,
//! so they are applied before the command starts any.
//!
//! If the kernel or the container does not allow a restriction, `-v` and `doctor` report it; the command
//! runs without it.

pub mod capabilities;
mod files;
pub mod syscalls;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use rustix::thread::set_no_new_privs;

use super::clock;

/// The operations of a command after its privileged part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Reads the maps of loaded programs, and walks their iterators.
    pub bpf: bool,
    /// Lists sockets again: makes the connection of the self-test, starts iterators, asks sock_diag.
    pub listing: bool,
    /// Uses sock_diag, which reports MPTCP only with CAP_NET_ADMIN.
    pub sock_diag: bool,
    pub owners: OwnerLookup,
    /// Enters other network namespaces.
    pub namespaces: bool,
    /// Reads keys from a terminal and draws on it.
    pub terminal: bool,
    /// Directories in which files are created, renamed and removed.
    pub directories: Vec<PathBuf>,
}

/// How the owners of sockets are resolved from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnerLookup {
    /// They are not resolved any more.
    #[default]
    None,
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
    /// The needs of `trace`: read the ring and the counters, and resolve owners.
    pub fn tracing(owners: OwnerLookup) -> Self {
        Self {
            bpf: true,
            owners,
            ..Self::default()
        }
    }

    /// The needs of `top`: in addition, draw, and record into this directory on request.
    pub fn screen(owners: OwnerLookup) -> Self {
        Self {
            terminal: true,
            directories: vec![PathBuf::from(".")],
            ..Self::tracing(owners)
        }
    }

    /// The command only prints from now on.
    pub fn printing() -> Self {
        Self::default()
    }

    /// The command lists repeatedly.
    pub fn listing() -> Self {
        Self {
            bpf: true,
            listing: true,
            // The fallback where the kernel's process ids are not those of /proc.
            owners: OwnerLookup::Proc,
            ..Self::default()
        }
    }

    /// The directory of a file that is created, replaced or rotated later.
    pub fn writes_beside(mut self, file: Option<&Path>) -> Self {
        self.directories.extend(file.map(directory_of));
        self
    }
}

/// The directory of a file.
fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The result of the restrictions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// The capabilities that are kept.
    pub kept: Vec<String>,
    /// Restrictions that could not be applied, with the reason.
    pub missing: Vec<String>,
    /// `None` if the filter is refused.
    pub system_calls: Option<usize>,
    /// `None` if Landlock is not applied.
    pub landlock: Option<String>,
}

/// Drops everything that is not needed. The restrictions apply to the calling thread and are inherited by
/// the threads that it starts: a thread that was started before keeps its rights. There is one such thread:
/// it lists the sockets that are older than a trace, and then ends.
fn enter(needs: &Needs) -> Sandbox {
    let mut sandbox = apply(needs);
    let others = fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count().saturating_sub(1));
    if others > 0 {
        sandbox.missing.push(format!(
            "{others} threads that were started before keep their rights until they end"
        ));
    }
    for missing in &sandbox.missing {
        log::debug!("sandbox: not applied: {missing}");
    }
    log::debug!("sandbox: {sandbox}");
    sandbox
}

/// Whether a command enters the sandbox (`--no-sandbox`).
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

/// The result of [`enter`] on this machine: runs it on a thread that then ends.
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
    // Evaluated while everything is still allowed; so is the first read of a clock, which resolves the vDSO
    // and may call prctl(2) and read /proc/self/auxv.
    let _ = clock::monotonic_ns();
    let keep = capabilities::needed(needs);
    // A program that this process executes cannot gain rights.
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
