//! # `cargo xtask`
//!
//! The single entry point for building and testing: every command installs its own prerequisites and
//! prints what it installs; without the rights for that it fails with the command to run. One file each.

mod bench;
mod btf_fixtures;
mod build;
mod checks;
mod fuzz;
mod initramfs;
mod kernels;
mod matrix;
mod packages;
mod paths;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds and tests keepalive", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask run -- trace                 build everything, trace this machine
  cargo xtask test                         unit tests, every kernel of the matrix, this machine
  cargo xtask test --kernel 6.1 --scenario dead_peer_probes
  cargo xtask vm 5.10 -- keepalive doctor  one command on another kernel
  cargo xtask vm 7                         a shell on it";

#[derive(Subcommand)]
enum Command {
    /// Find or install what building needs: a compiler for BPF and bpf-linker
    Setup,
    /// Build target/release/keepalive, a static binary
    Build,
    /// Build, then run keepalive with these arguments (tracing needs root)
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the unit tests, then the scenarios on every kernel of the matrix in VMs, then live
    Test(test::Arguments),
    /// Measure the BPF programs on every kernel, `list` against `ss`, or `replay`
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Fuzz the reader of recordings and other parsers, starting from the kept corpus
    Fuzz(fuzz::Arguments),
    /// Extract the types that the layout is resolved from of each kernel, as fixtures for its tests
    BtfFixtures(btf_fixtures::Arguments),
    /// Boot a kernel of the matrix and run a command in it, or a shell
    Vm(vm::Arguments),
    /// Check the repository's own rules: layers of imports, length of files, module comments
    Tidy,
    /// Run the checks of CI: format, lints, tidiness, a bounded `fuzz`, then `test`
    Ci,
}

fn main() -> ExitCode {
    let outcome = dispatch(Cli::parse().command);
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::ensure().map(|_| ExitCode::SUCCESS),
        Command::Build => build::release().map(|_| ExitCode::SUCCESS),
        Command::Run { arguments } => build::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(what) => bench::run(&what),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::BtfFixtures(arguments) => btf_fixtures::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Tidy => tidy::check().map(|()| ExitCode::SUCCESS),
        Command::Ci => {
            setup::ensure()?;
            let fetching = test::begin_to_fetch();
            checks::run()?;
            fuzz::run(&fuzz::Arguments::bounded())?;
            let _ = fetching.join();
            test::run(&test::Arguments::everything())
        }
    }
}
