//! # Commands
//!
//! One file per command: it connects the pieces of the layers below and returns an exit code. It has no
//! logic that needs a test of its own.

mod audit;
mod doctor;
mod explain;
mod list;
mod manual;
mod outputs;
mod replay;
mod top;
mod trace;

use std::io::stdout;

use anyhow::Result;

use crate::{cli::Command, core::exit::Exit, output};

/// Runs the command.
pub fn run(command: &Command) -> Result<Exit> {
    match command {
        Command::Trace(arguments) => trace::run(arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Audit(arguments) => audit::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Report(arguments) => replay::report(arguments),
        Command::Schema { of } => output::schema(*of, &mut stdout().lock()).map(|()| Exit::Success),
        Command::Completions { shell } => {
            manual::completions(*shell, &mut stdout().lock()).map(|()| Exit::Success)
        }
        Command::Man { command } => {
            manual::page(command.as_deref(), &mut stdout().lock()).map(|()| Exit::Success)
        }
    }
}
