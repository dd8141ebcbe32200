//! # Scenario suite
//!
//! Makes the kernel take every decision about keepalive there is, on real sockets, and compares
//! what the real binary prints with what the kernel did. One scenario per row of the matrix; one
//! tracer watches them all. Needs root; `cargo xtask test` runs it on every kernel of the matrix.
//!
//! Everything is done by system calls: where this runs there may be no other program than this
//! one and the tracer.

mod answered;
mod applicability;
mod arithmetic;
mod arming;
mod audit;
mod bench;
mod bench_list;
mod bench_load;
mod browser;
mod cgroups;
mod classics;
mod connecting;
mod cookies;
mod death;
mod diag;
mod ending;
mod event;
mod expect;
mod explain;
mod families;
mod filters;
mod hard_cases;
mod in_step;
mod leftovers;
mod link;
mod list;
mod list_namespaces;
mod list_timers;
mod listing;
mod net;
mod owners;
mod quarantine;
mod recording;
mod refusals;
mod report;
mod report_page;
mod sandbox;
mod scale;
mod shutdown;
mod silent;
mod socket;
mod ss;
mod stalls;
mod states;
mod stopping;
mod suite;
mod suppressed;
mod sys;
mod top;
mod tracer;
mod watch;
mod window;
mod witness;
mod worker;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::bench::{Bench, HardCase};
use crate::expect::Facts;
use crate::suite::{Report, Scenario, Verdict};
use crate::tracer::Tracer;

/// How to call this.
const USAGE: &str = "usage: scenarios --keepalive PATH --backend fentry|tracepoint \
                     [--only NAME]... [--kernel LABEL]\n       \
                     scenarios --keepalive PATH --bench-list SOCKETS,SOCKETS...\n       \
                     scenarios --keepalive PATH --backend NAME --bench-load full|quick \
                     [--only WORKLOAD]... [--format table|json]";

/// The label of the running kernel.
const LIVE: &str = "live";

struct Arguments {
    keepalive: String,
    backend: String,
    only: Vec<String>,
    kernel: Option<String>,
    /// Numbers of sockets to measure `list` with, instead of the suite.
    bench_list: Vec<usize>,
    /// The load benchmark, instead of the suite.
    bench_load: Option<bench_load::Options>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scenarios: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Arguments> {
    let (mut keepalive, mut backend, mut kernel, mut only) = (None, None, None, Vec::new());
    let (mut bench_list, mut bench_load, mut json) = (Vec::new(), None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        match name.as_str() {
            "--keepalive" => keepalive = Some(value),
            "--backend" => backend = Some(value),
            "--kernel" => kernel = Some(value),
            "--only" => only.push(value),
            "--bench-list" => {
                let sizes = value.split(',').map(str::parse);
                bench_list = sizes.collect::<Result<_, _>>().context(USAGE)?;
                backend = Some(String::new());
            }
            "--bench-load" => bench_load = Some(value == "quick"),
            "--format" => json = value == "json",
            _ => bail!("{USAGE}"),
        }
    }
    let bench_load = bench_load.map(|quick| bench_load::Options {
        quick,
        only: only.clone(),
        json,
    });
    Ok(Arguments {
        keepalive: keepalive.context(USAGE)?,
        backend: backend.context(USAGE)?,
        only,
        kernel,
        bench_list,
        bench_load,
    })
}

/// Everything that runs beside one tracer: the long ones first.
fn beside_one_tracer() -> impl Iterator<Item = &'static Scenario> {
    [
        death::SCENARIOS,
        connecting::SCENARIOS,
        window::SCENARIOS,
        arming::SCENARIOS,
        suppressed::SCENARIOS,
        answered::SCENARIOS,
        families::SCENARIOS,
        states::SCENARIOS,
        cookies::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}

/// What needs tracers of its own, but not the machine.
fn side_by_side() -> impl Iterator<Item = &'static HardCase> {
    [
        arithmetic::CASES,
        explain::CASES,
        audit::CASES,
        classics::CASES,
        recording::CASES,
        report_page::CASES,
        top::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Everything that needs tracers of its own.
fn alone() -> impl Iterator<Item = &'static HardCase> {
    [
        answered::CASES,
        filters::CASES,
        cgroups::CASES,
        owners::CASES,
        in_step::CASES,
        shutdown::CASES,
        hard_cases::CASES,
        stopping::CASES,
        refusals::CASES,
        list_timers::CASES,
        list::CASES,
        list_namespaces::CASES,
        sandbox::CASES,
    ]
    .into_iter()
    .flatten()
}

fn is_wanted(arguments: &Arguments, name: &str) -> bool {
    arguments.only.is_empty() || arguments.only.iter().any(|only| only == name)
}

/// Runs the suite; true if nothing failed.
fn run(arguments: &Arguments) -> Result<bool> {
    if !arguments.bench_list.is_empty() {
        return bench_list::run(&arguments.keepalive, &arguments.bench_list).map(|()| true);
    }
    if let Some(options) = &arguments.bench_load {
        bench_load::run(&arguments.keepalive, &arguments.backend, options)?;
        return Ok(true);
    }
    // One name for all threads: it is what events must say.
    sys::set_process_name(b"ka-scenarios")?;
    stalls::watch();
    if let Some(kernel) = &arguments.kernel {
        println!("note\tkernel\t{kernel}");
    }
    let wanted = |scenario: &&'static Scenario| is_wanted(arguments, scenario.name);
    arming::make_older_connection().context("the connection older than the tracer")?;
    let printer = report::Printer::new(&arguments.backend);
    let tracer = match Tracer::spawn(&arguments.keepalive, &arguments.backend, &["--cost"]) {
        Ok(tracer) => tracer,
        Err(error) => {
            let names = beside_one_tracer()
                .chain(scale::SCENARIOS)
                .map(|row| row.name)
                .chain(side_by_side().chain(alone()).map(|case| case.name))
                .filter(|name| is_wanted(arguments, name));
            refused(&printer, names, arguments, &error);
            return Ok(printer.summary());
        }
    };
    let facts = Facts::from_start(&tracer.start)?;
    let live = arguments.kernel.as_deref() == Some(LIVE);
    let mut ready = Vec::new();
    for scenario in beside_one_tracer().filter(wanted) {
        match applicability::excuse(scenario.name, facts) {
            Some(reason) => printer.print(Report::not_applicable(scenario.name, reason)),
            None => ready.push(scenario),
        }
    }
    suite::run_all(&ready, &tracer, facts, live, |report| {
        printer.print(report);
    });
    for scenario in scale::SCENARIOS.iter().filter(wanted) {
        let before = tracer::unseen();
        printer.print(suite::run(scenario, &tracer, facts).judged(live, before));
    }
    printer.print(ending::end_of_trace(tracer, facts));
    run_cases(arguments, &printer, facts, live);
    Ok(printer.summary())
}

/// Runs what has tracers of its own.
fn run_cases(arguments: &Arguments, printer: &report::Printer, facts: Facts, live: bool) {
    let bench = Bench {
        keepalive: arguments.keepalive.clone(),
        backend: arguments.backend.clone(),
    };
    let run_case = |case: &HardCase| {
        let before = tracer::unseen();
        printer.print(match applicability::excuse(case.name, facts) {
            Some(reason) => Report::not_applicable(case.name, reason),
            None => bench.run(case).judged(live, before),
        });
    };
    // Mostly waiting, each in a namespace of its own.
    std::thread::scope(|scope| {
        for case in side_by_side().filter(|case| is_wanted(arguments, case.name)) {
            scope.spawn(move || run_case(case));
        }
    });
    for case in alone().filter(|case| is_wanted(arguments, case.name)) {
        run_case(case);
    }
}

/// The backend does not load: fine where the table says it cannot.
fn refused(
    printer: &report::Printer,
    names: impl Iterator<Item = &'static str>,
    arguments: &Arguments,
    error: &anyhow::Error,
) {
    let error = format!("{error:#}");
    let kernel = arguments.kernel.as_deref();
    let excuse = applicability::backend_excuse(&arguments.backend, kernel, &error);
    for name in names {
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
