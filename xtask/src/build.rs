//! `cargo xtask build` and `run`: the release binary, static, so that it runs on any machine
//! and in an empty initramfs.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{packages, paths, run, setup};

/// Static linking is requested with an explicit target, so that build scripts and procedural
/// macros, which cannot be static, are built without it.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: (&str, &str) = (
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
    "-Ctarget-feature=+crt-static",
);

/// Builds `target/release/keepalive`.
pub fn release() -> Result<PathBuf> {
    setup::ensure()?;
    run::step(
        "cargo build",
        cargo("build").args(["--package", "keepalive-user"]),
    )?;
    publish("keepalive")
}

/// Builds the guest's init.
pub fn vm_init() -> Result<PathBuf> {
    run::step(
        "cargo build vm-init",
        cargo("build").args(["--package", "xtask", "--bin", "vm-init"]),
    )?;
    Ok(built("vm-init"))
}

/// Builds the scenario suite, and returns its path.
pub fn scenarios() -> Result<PathBuf> {
    let mut command = cargo("test");
    command.args([
        "--package",
        "keepalive-user",
        "--test",
        "scenarios",
        "--no-run",
    ]);
    command.arg("--message-format=json-render-diagnostics");
    let output = run::step("cargo build scenarios", &mut command)?;
    executable(&run::text(&output.stdout), "scenarios")
        .context("cargo did not report the path of the scenario suite")
}

/// The `executable` of the named target in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let line = messages
        .lines()
        .filter(|line| line.contains("\"reason\":\"compiler-artifact\""))
        .find(|line| {
            line.contains(&format!("\"name\":\"{name}\"")) && !line.contains("\"executable\":null")
        })?;
    let (_, rest) = line.split_once("\"executable\":\"")?;
    rest.split('"').next().map(PathBuf::from)
}

/// Builds keepalive, and executes it in place of xtask.
pub fn run(arguments: &[String]) -> Result<ExitCode> {
    let needs_root = arguments
        .first()
        .is_some_and(|command| command == "trace" || command == "top");
    if needs_root && !packages::is_root() {
        bail!(
            "tracing needs root: run `cargo xtask build`, then `sudo target/release/keepalive {}`",
            arguments.join(" ")
        );
    }
    let binary = release()?;
    Err(Command::new(&binary).args(arguments).exec())
        .with_context(|| format!("cannot run {}", binary.display()))
}

fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .arg(command)
        .args(["--release", "--locked", "--target", TARGET])
        .env(STATIC.0, STATIC.1);
    cargo
        .current_dir(paths::root())
        .env("CARGO_TARGET_DIR", paths::target(""));
    cargo
}

fn built(name: &str) -> PathBuf {
    paths::target(TARGET).join("release").join(name)
}

/// Copies a binary to its usual path in `target/release`.
fn publish(name: &str) -> Result<PathBuf> {
    let from = built(name);
    let to = paths::target("release").join(name);
    fs::create_dir_all(paths::target("release")).context("cannot make target/release")?;
    if !same(&from, &to) {
        // A running binary cannot be written to, but it can be replaced.
        let _ = fs::remove_file(&to);
        fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(to)
}

fn same(from: &Path, to: &Path) -> bool {
    let contents = |path| fs::read(path).ok();
    contents(to).is_some_and(|to| contents(from).is_some_and(|from| from == to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_executable_in_cargos_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"scenarios\"},\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"scenarios\"},\"executable\":\"/t/deps/scenarios-1\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        assert_eq!(
            executable(messages, "scenarios"),
            Some("/t/deps/scenarios-1".into())
        );
        assert_eq!(executable(messages, "other"), None);
    }
}
