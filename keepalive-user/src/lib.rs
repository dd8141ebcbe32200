//! # `keepalive`
//!
//! See what TCP keepalive really does on a live Linux machine. The data path, left to right, one
//! module each:
//!
//! ```text
//! BPF programs ─ ring ─ source ─ record ─ tracker ─ event ─ attribution ─ output
//! ```
//!
//! `trace` is that line; `kernel` finds where the kernel keeps what the programs read; `doctor`
//! tells what this machine allows.

mod arithmetic;
mod attribution;
mod audit;
mod cli;
mod clock;
mod convert;
mod decide;
mod descriptors;
mod diagnostics;
mod doctor;
pub mod event;
mod exit;
mod explain;
mod files;
mod filter;
pub mod fuzzing;
mod kernel;
mod list;
mod listing;
mod namespace;
mod numbers;
mod output;
mod pipeline;
mod privileges;
pub mod recording;
mod replay;
mod sandbox;
mod session;
mod source;
mod stop;
mod terminal;
mod top;
mod trace;
mod tracker;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    exit::Exit,
};

/// The program: what `main` is.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let verbose = match &cli.command {
        Command::Trace(arguments) => arguments.verbose,
        Command::List(arguments) => arguments.verbose,
        Command::Explain(arguments) => arguments.verbose,
        Command::Audit(arguments) => arguments.verbose,
        Command::Doctor(arguments) => arguments.verbose,
        Command::Replay(_)
        | Command::Report(_)
        | Command::Schema { .. }
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Top(_) => false,
    };
    log::set_max_level(if verbose {
        log::LevelFilter::Debug
    } else {
        log::LevelFilter::Warn
    });
    // Fails only if a logger is set already.
    let _ = log::set_logger(&Diagnostics);
    let outcome = match &cli.command {
        Command::Trace(arguments) => trace::run(arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Audit(arguments) => audit::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Report(arguments) => replay::report(arguments),
        Command::Schema { of } => {
            output::schema(*of, &mut std::io::stdout().lock()).map(|()| Exit::Success)
        }
        Command::Completions { shell } => {
            cli::manual::completions(*shell, &mut std::io::stdout().lock()).map(|()| Exit::Success)
        }
        Command::Man { command } => {
            cli::manual::page(command.as_deref(), &mut std::io::stdout().lock())
                .map(|()| Exit::Success)
        }
    };
    let exit = outcome.unwrap_or_else(|error| {
        let exit = exit::code(&error);
        if !exit::is_broken_pipe(&error) {
            diagnostics::line(&format!(
                "keepalive: {}",
                output::escape(&format!("{error:#}"))
            ));
        }
        exit
    });
    diagnostics::finish();
    ExitCode::from(exit as u8)
}

/// Diagnostics go to stderr: ours, and those of the BPF programs that aya-log hands over.
struct Diagnostics;

impl log::Log for Diagnostics {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // aya narrates every relocation at debug level.
        metadata.target().starts_with("keepalive") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            let level = record.level().as_str().to_lowercase();
            diagnostics::line(&format!("keepalive: {level}: {}", output::escape(&text)));
        }
    }

    fn flush(&self) {}
}
