//! `keepalive doctor`: one screen that shows whether `trace` works on this machine, and the remedy if not.

use std::io::{self, Write};

use anyhow::{Context, Result};

use crate::{
    cli::Doctor,
    core::{
        event::Diagnosis,
        exit::{Exit, is_broken_pipe},
    },
    machine::{bpf::Options, doctor::examine, sandbox::Needs},
    output::doctor,
};

/// Runs the checks and prints them; the exit code is 0 if `trace` works, also for a reader that leaves.
pub fn run(arguments: &Doctor) -> Result<Exit> {
    let options = Options {
        backend: arguments.loading.backend.backend(),
        ring_bytes: arguments.loading.ring_bytes,
        btf: arguments.loading.btf.clone(),
        live_answers: true,
        ..Options::default()
    };
    let (report, exit) = examine(&options);
    arguments
        .loading
        .sandbox
        .confinement()
        .enter(&Needs::printing());
    match print(&report, arguments) {
        Err(error) if is_broken_pipe(&error) => Ok(exit),
        printed => printed.context("cannot write").map(|()| exit),
    }
}

fn print(report: &Diagnosis, arguments: &Doctor) -> Result<()> {
    let mut out = anstream::stdout().lock();
    if arguments.json {
        // As an I/O error, so that a reader that has left is recognized.
        serde_json::to_writer(&mut out, report).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    doctor::text(report, arguments.verbose, &mut out)
}
