//! What packages ship beside the binary, made of the one description of the command line.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::{
    cli::Cli,
    core::exit::{Exit, Refusal},
};

/// The completions for a shell.
pub fn completions(shell: clap_complete::Shell, out: &mut impl Write) -> Result<()> {
    // In memory first: the generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "keepalive", &mut text);
    out.write_all(&text).context("cannot write")
}

/// The manual page of `keepalive`, or of one of its commands.
pub fn page(of: Option<&str>, out: &mut impl Write) -> Result<()> {
    let mut all = Cli::command();
    // Gives each command its full name and the version.
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
