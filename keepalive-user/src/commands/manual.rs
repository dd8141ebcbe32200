//! Shell completions and manual pages, generated from the definition of the command line.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::{
    cli::Cli,
    core::exit::{Exit, Refusal},
};

/// The completions for a shell.
pub fn completions(shell: clap_complete::Shell, out: &mut impl Write) -> Result<()> {
    // Written to memory first, because the generator panics if a write fails.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keepalive", &mut text);
    out.write_all(&text).context("cannot write")
}

/// The manual page of `keepalive`, or of one of its commands.
pub fn page(of: Option<&str>, out: &mut impl Write) -> Result<()> {
    let mut all = Cli::command();
    // This gives each command its full name and the version.
    all.build();
    let command = match of {
        None => &all,
        Some(name) => all.find_subcommand(name).ok_or_else(|| {
            Refusal::new(
                Exit::Usage,
                format!("{name:?} is not a command: see `keepalive help`"),
            )
        })?,
    };
    clap_mangen::Man::new(command.clone())
        .source(concat!("keepalive ", env!("CARGO_PKG_VERSION")))
        .render(out)
        .context("cannot write")
}
