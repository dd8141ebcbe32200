//! # `keepalive`
//!
//! See what TCP keepalive really does on a live Linux machine. Five layers, imports downwards only
//! (`cargo xtask tidy` enforces it):
//!
//! ```text
//! commands   one file per command: connects the pieces
//! cli        what can be asked for: clap types, and what they mean for the layers below
//! output     what events look like: JSON, text, live screen, report
//! machine    everything that touches the operating system: BPF, /proc, netlink, files, the live session
//! core       pure: records in, events out
//! ```
//!
//! The path of one record:
//!
//! ```text
//! hook → record → ring → session → tracker → events → owners → outputs
//!                           ↘ recording      replay ↗
//! ```

mod cli;
mod commands;
mod core;
pub mod fuzzing;
mod machine;
mod output;

use std::process::ExitCode;

use clap::Parser;

pub use crate::core::{clock, event, recording};
use crate::{
    cli::Cli,
    core::{exit, format::escape},
    machine::{diagnostics, stop},
};

/// The program: what `main` is.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    diagnostics::install(cli.command.is_verbose());
    let run = || stop::survive_file_size_limit().and_then(|()| commands::run(&cli.command));
    let exit = run().unwrap_or_else(|error| {
        let exit = exit::code(&error);
        if !exit::is_broken_pipe(&error) {
            diagnostics::line(&format!("keepalive: {}", escape(&format!("{error:#}"))));
        }
        exit
    });
    diagnostics::finish();
    ExitCode::from(exit as u8)
}
