//! # The command line
//!
//! Arguments, and what they mean for the layers below. Values are checked here: the rest of the
//! program gets only valid ones.

mod audit;
mod doctor;
mod explain;
mod list;
mod loading;
mod recording;
mod selection;
mod top;
mod trace;
mod values;

use clap::{Parser, Subcommand};

pub use self::{
    audit::{Audit, FailOn, wanted_of_trace},
    doctor::Doctor,
    explain::Explain,
    list::{List, Switch},
    loading::{Loading, Sandbox},
    recording::{Recording, Replay, Report},
    selection::Selection,
    top::Top,
    trace::Trace,
};
use crate::output::SchemaOf;

/// See what TCP keepalive really does on this machine.
#[derive(Parser, Debug)]
#[command(name = "keepalive", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  keepalive trace                         every keepalive timer and zero-window probe, explained
  keepalive trace -R 5432 -d 10m          only connections to PostgreSQL, for ten minutes
  keepalive trace --json | jq .           one JSON object per line
  keepalive trace --record FILE           and keep it: `keepalive replay FILE` replays it
  keepalive report FILE -o report.html    and a page to look at
  keepalive top                           a live screen, closest to death first
  keepalive list                          every TCP socket, its timers and settings
  keepalive explain :5432                 why no probe? what happens next?
  keepalive audit --middlebox aws-nlb     what will break, worst first
  keepalive doctor                        what this kernel allows, and why

Exit codes: 0 success (also: the reader left), 1 failure (also: output was abandoned), 2 usage,
3 not permitted, 4 not supported by this kernel, 5 findings (audit --fail-on).";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Stream keepalive timers, probes, answers and deaths as they happen (needs root)
    Trace(Trace),
    /// Watch the sockets with keepalive on a live screen, closest to death first (needs root)
    Top(Top),
    /// Show every TCP socket with its timers, its keepalive settings and its owner
    List(List),
    /// Explain one socket: why no keepalive probe is seen, what happens next, and when it dies
    Explain(Explain),
    /// Check every socket: zombies, probes that come too late, settings that have no effect
    Audit(Audit),
    /// Replay a recording of `trace --record`, on any machine and without root
    Replay(Replay),
    /// Render a recording of `trace --record` as a page, or a picture
    Report(Report),
    /// Check whether `trace` works on this machine, and if not, why and what to do
    Doctor(Doctor),
    /// Print the JSON Schema of what a command prints with --json
    Schema {
        #[arg(value_enum, default_value_t = SchemaOf::Trace)]
        of: SchemaOf,
    },
    /// Print the completions for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of keepalive, or of one of its commands
    Man { command: Option<String> },
}

impl Command {
    /// Whether diagnostics are wanted (`-v`).
    pub fn is_verbose(&self) -> bool {
        match self {
            Self::Trace(arguments) => arguments.verbose,
            Self::List(arguments) => arguments.verbose,
            Self::Explain(arguments) => arguments.verbose,
            Self::Audit(arguments) => arguments.verbose,
            Self::Doctor(arguments) => arguments.verbose,
            Self::Replay(_)
            | Self::Report(_)
            | Self::Schema { .. }
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Top(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
