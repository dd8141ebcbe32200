//! Debian packages: installs missing ones as root; otherwise fails with the command to run.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::run;

/// A program or file, and the package that contains it.
pub struct Tool {
    pub path: &'static str,
    pub package: &'static str,
}

/// Installs the packages of all tools that are missing.
///
/// # Errors
/// Names the exact command if this is not root, or the missing programs if there is no apt.
pub fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|tool| !is_there(tool.path))
        .map(|tool| tool.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    if !is_there("apt-get") {
        bail!(
            "missing {} (Debian's names), and there is no apt-get to install them",
            missing.join(", ")
        );
    }
    if !is_root() {
        bail!("missing {}: run `sudo {install}`", missing.join(", "));
    }
    eprintln!("[setup] installing {}", missing.join(" "));
    run::step("apt-get update", apt().args(["update", "-qq"]))?;
    let arguments = ["install", "-y", "-qq", "--no-install-recommends"];
    run::step("apt-get install", apt().args(arguments).args(&missing))?;
    Ok(())
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    // In this run level installed servers are not started.
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1");
    apt
}

/// An absolute path that exists, or a program in PATH.
pub fn is_there(path: &str) -> bool {
    find(path).is_some()
}

/// Its path.
pub fn find(path: &str) -> Option<PathBuf> {
    if path.starts_with('/') {
        return Some(PathBuf::from(path)).filter(|path| path.exists());
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .map(|directory| directory.join(path))
        .find(|path| path.is_file())
}

pub fn is_root() -> bool {
    run::first_line(Command::new("id").arg("-u")).as_deref() == Some("0")
}
