//! One run of the suite: which scenarios run in parallel, and what is printed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use super::applicability;
use super::arguments::Arguments;
use super::bench::{Bench, HardCase};
use super::printer::Printer;
use super::suite::{self, Report, Scenario, Verdict};
use super::{quarantine, stalls};
use crate::kit::expect::Facts;
use crate::kit::sys;
use crate::kit::tracer::{self, Tracer};

/// All scenarios, in the order in which they run.
pub struct Contents {
    /// Creates what must be older than the tracer.
    pub before: fn() -> Result<()>,
    /// Traced by one shared tracer, many in parallel.
    pub beside_one_tracer: &'static [&'static [Scenario]],
    /// Traced by the same tracer, one at a time.
    pub at_scale: &'static [&'static [Scenario]],
    /// The name and the checks of the end of that tracer.
    pub end: (&'static str, fn(Tracer, Facts) -> Report),
    /// With their own tracers, and able to share the machine: all in parallel.
    pub side_by_side: &'static [&'static [HardCase]],
    /// With their own tracers, one at a time.
    pub alone: &'static [&'static [HardCase]],
}

impl Contents {
    fn scenarios(&self) -> impl Iterator<Item = &'static Scenario> {
        let groups = self.beside_one_tracer.iter().chain(self.at_scale);
        groups.copied().flatten()
    }

    fn cases(&self) -> impl Iterator<Item = &'static HardCase> {
        let groups = self.side_by_side.iter().chain(self.alone);
        groups.copied().flatten()
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.scenarios()
            .map(|scenario| scenario.name)
            .chain([self.end.0])
            .chain(self.cases().map(|case| case.name))
    }

    /// Rejects duplicate names, which would share one row of the matrix, and table rows or
    /// arguments that name no scenario, which would have no effect.
    fn check(&self, arguments: &Arguments) -> Result<()> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.names().find(|name| !names.insert(*name)) {
            bail!("two scenarios are named {twice}");
        }
        let tables = [
            ("harness/quarantine.rs", Vec::from_iter(quarantine::names())),
            (
                "harness/applicability.rs",
                Vec::from_iter(applicability::names()),
            ),
            (
                "--only",
                arguments.only.iter().map(String::as_str).collect(),
            ),
        ];
        for (table, named) in tables {
            if let Some(unknown) = named.into_iter().find(|name| !names.contains(name)) {
                bail!("{table} names the scenario {unknown}, which does not exist");
            }
        }
        Ok(())
    }
}

/// Runs the suite; true if nothing failed.
///
/// # Errors
/// If it cannot start.
pub fn run(contents: &Contents, arguments: &Arguments) -> Result<bool> {
    contents.check(arguments)?;
    // All threads have one name, which events must print.
    sys::set_process_name(c"ka-scenarios")?;
    stalls::watch();
    if let Some(kernel) = &arguments.kernel {
        println!("note\tkernel\t{kernel}");
    }
    (contents.before)().context("what must be older than the tracer")?;
    let printer = Printer::new(&arguments.backend);
    match Tracer::spawn(&arguments.keepalive, &arguments.backend, &["--cost"]) {
        Ok(tracer) => run_all(contents, arguments, &printer, tracer)?,
        Err(error) => refused(contents, arguments, &printer, &error),
    }
    Ok(printer.summary())
}

fn run_all(
    contents: &Contents,
    arguments: &Arguments,
    printer: &Printer,
    tracer: Tracer,
) -> Result<()> {
    let facts = Facts::from_start(&tracer.start)?;
    let live = arguments.is_live();
    let wanted = |scenario: &&Scenario| arguments.wants(scenario.name);
    let mut ready = Vec::new();
    let beside = contents.beside_one_tracer.iter().copied().flatten();
    for scenario in beside.filter(wanted) {
        match applicability::excuse(scenario.name, facts) {
            Some(reason) => printer.print(Report::not_applicable(scenario.name, reason)),
            None => ready.push(scenario),
        }
    }
    suite::run_all(&ready, &tracer, facts, live, |report| printer.print(report));
    let at_scale = contents.at_scale.iter().copied().flatten();
    for scenario in at_scale.filter(wanted) {
        let before = tracer::unseen();
        printer.print(suite::run(scenario, &tracer, facts).judged(live, before));
    }
    let (_, end) = contents.end;
    printer.print(end(tracer, facts));
    run_cases(contents, arguments, printer, facts);
    Ok(())
}

/// Runs the scenarios that have their own tracers.
fn run_cases(contents: &Contents, arguments: &Arguments, printer: &Printer, facts: Facts) {
    let bench = Bench {
        keepalive: arguments.keepalive.clone(),
        backend: arguments.backend.clone(),
    };
    let run_case = |case: &HardCase| {
        let before = tracer::unseen();
        printer.print(match applicability::excuse(case.name, facts) {
            Some(reason) => Report::not_applicable(case.name, reason),
            None => bench.run(case).judged(arguments.is_live(), before),
        });
    };
    let wanted = |case: &&HardCase| arguments.wants(case.name);
    // These mostly wait, each in its own namespace.
    std::thread::scope(|scope| {
        let side_by_side = contents.side_by_side.iter().copied().flatten();
        for case in side_by_side.filter(wanted) {
            scope.spawn(move || run_case(case));
        }
    });
    let alone = contents.alone.iter().copied().flatten();
    alone.filter(wanted).for_each(run_case);
}

/// The backend does not load: not a failure if the table of exceptions covers it.
fn refused(contents: &Contents, arguments: &Arguments, printer: &Printer, error: &anyhow::Error) {
    let error = format!("{error:#}");
    let kernel = arguments.kernel.as_deref();
    let excuse = applicability::backend_excuse(&arguments.backend, kernel, &error);
    // Without a tracer its end cannot be checked.
    let names = contents.names().filter(|name| *name != contents.end.0);
    for name in names.filter(|name| arguments.wants(name)) {
        printer.print(match excuse {
            Some(reason) => Report::not_applicable(name, reason),
            None => Report {
                name,
                verdict: Verdict::Failed {
                    reason: error.clone(),
                    details: Vec::new(),
                },
                took: std::time::Duration::ZERO,
                notes: Vec::new(),
            },
        });
    }
}
