//! The static checks: format, lints, tidiness.

use std::process::Command;

use anyhow::Result;

use crate::{paths, run, setup, tidy};

/// Runs them all; the first that fails ends it.
pub fn run() -> Result<()> {
    setup::ensure()?;
    for arguments in [
        &["fmt", "--all", "--check"][..],
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
        // Not among all targets, because plain `cargo test` must not run it.
        &[
            "clippy",
            "--package",
            "keepalive-user",
            "--test",
            "scenarios",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
    ] {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let what = format!("cargo {}", arguments.join(" "));
        run::timed(&what, cargo.args(arguments).current_dir(paths::root()))?;
    }
    eprintln!("[ci] tidy");
    tidy::check()
}
