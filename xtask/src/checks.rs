//! The static checks: format, lints, documentation, tidiness, spelling, dependencies.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{
    packages::{self, Tool},
    paths, run, setup, tidy,
};

/// The checks by cargo, in this order.
const CARGO: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
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
    // It is not part of `--all-targets`, because plain `cargo test` must not run it.
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
    &[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
        "--quiet",
    ],
];

/// Runs all checks, up to the first failure.
pub fn run() -> Result<()> {
    setup::ensure()?;
    msrv()?;
    for arguments in CARGO {
        let what = format!("cargo {}", arguments[0]);
        let mut cargo = cargo();
        cargo.env("RUSTDOCFLAGS", "-D warnings");
        run::timed(&what, cargo.args(*arguments))?;
    }
    eprintln!("[ci] tidy");
    tidy::check()?;
    spelling()?;
    deny()
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    cargo
}

/// Checks that the compiler is not older than the declared `rust-version`. With a newer compiler clippy's
/// `incompatible_msrv` refuses what the declared version does not have.
fn msrv() -> Result<()> {
    let manifest = std::fs::read_to_string(paths::root().join("Cargo.toml"))?;
    let declared = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .context("Cargo.toml declares no rust-version")?
        .trim_matches('"');
    let version = run::first_line(Command::new("rustc").arg("--version")).unwrap_or_default();
    let used = version.split_whitespace().nth(1).unwrap_or_default();
    let number = |version: &str| -> Vec<u32> {
        let parts = version
            .split(['.', '-'])
            .map_while(|part| part.parse().ok());
        parts.take(2).collect()
    };
    if number(used) < number(declared) {
        bail!("rustc {used} is older than the declared rust-version {declared}");
    }
    let is_exact = number(used) == number(declared);
    eprintln!(
        "[ci] rust-version {declared}, built with {used}{}",
        if is_exact { "" } else { ": by lint only" }
    );
    Ok(())
}

/// Finds common misspellings in all committed files, by codespell (`.codespellrc`).
fn spelling() -> Result<()> {
    packages::ensure(&[Tool {
        path: "codespell",
        package: "codespell",
    }])?;
    let mut list = Command::new("git");
    list.args(["ls-files", "-z"]).current_dir(paths::root());
    let files = run::step("git ls-files", &mut list)?;
    let files = run::text(&files.stdout);
    let mut codespell = Command::new("codespell");
    codespell
        .args(files.split_terminator('\0'))
        .current_dir(paths::root());
    run::step("codespell", &mut codespell).map(drop)
}

/// Checks licences, sources and bans of all dependencies, by cargo-deny (`.cargo/deny.toml`).
fn deny() -> Result<()> {
    // It reads the manifests of all dependencies, those of other platforms included.
    run::step("cargo fetch", cargo().args(["fetch", "--locked"]))?;
    let mut deny = Command::new(setup::deny()?);
    deny.args(["--offline", "--locked", "--config", ".cargo/deny.toml"])
        .args(["check", "licenses", "sources", "bans"])
        .current_dir(paths::root());
    run::step("cargo deny", &mut deny).map(drop)
}
