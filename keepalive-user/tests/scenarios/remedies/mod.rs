//! Remedies that work when applied: real programs run with a configuration that has findings, what the
//! remedies say is written into it, and the next audit must find nothing.
//!
//! Each program has a namespace of its own, with a link to a far end that listens and connects. Nothing is
//! installed, started or stopped but what these files start.

mod clients;
mod proxies;
mod remedy;
mod run;
mod servers;

use std::thread;

use anyhow::{Result, anyhow, bail};

use self::run::{Program, apply};
use crate::harness::bench::{Bench, HardCase};

pub const CASES: &[HardCase] = &[HardCase {
    name: "remedies",
    run: remedies,
}];

/// A guest without packages has none of the programs.
pub const DISTRIBUTION: &str = "/usr/bin/dpkg";

fn programs() -> impl Iterator<Item = &'static Program> {
    proxies::PROGRAMS
        .iter()
        .chain(servers::PROGRAMS)
        .chain(clients::PROGRAMS)
}

/// All programs at once, each on its own thread and so in its own namespaces.
fn remedies(bench: &Bench) -> Result<()> {
    let _separation = servers::Separation::ensure()?;
    let failures: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = programs()
            .map(|program| (program.name, scope.spawn(|| apply(bench, program))))
            .collect();
        threads
            .into_iter()
            .filter_map(|(name, thread)| {
                let outcome = thread.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
                outcome.err().map(|error| format!("{name}: {error:#}"))
            })
            .collect()
    });
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}
