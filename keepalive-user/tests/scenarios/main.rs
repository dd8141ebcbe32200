//! # Scenario suite
//!
//! Makes the kernel take every possible keepalive decision on real sockets, and compares the output
//! of the real binary with what the kernel did. Each row of the matrix is one scenario; one tracer
//! traces most of them. Needs root; `cargo xtask test` runs it on every kernel of the matrix.
//!
//! Everything is done by system calls: a guest may contain no programs other than this one and the
//! tracer.

mod audit;
mod benches;
mod busy;
mod explain;
mod harness;
mod kit;
mod limits;
mod list;
mod remedies;
mod report;
mod top;
mod trace;

use std::process::ExitCode;

use anyhow::Result;

use crate::harness::arguments::Arguments;
use crate::harness::run::{self, Contents};

/// The table of contents.
const CONTENTS: Contents = Contents {
    before: trace::arming::make_older_connection,
    // The longest scenarios start first.
    beside_one_tracer: &[
        trace::death::SCENARIOS,
        trace::connecting::SCENARIOS,
        trace::window::SCENARIOS,
        trace::arming::SCENARIOS,
        trace::suppressed::SCENARIOS,
        trace::answered::SCENARIOS,
        trace::answers::SCENARIOS,
        trace::certificates::SCENARIOS,
        trace::families::SCENARIOS,
        trace::states::SCENARIOS,
        trace::cookies::SCENARIOS,
    ],
    at_scale: &[busy::scale::SCENARIOS],
    end: (trace::ending::NAME, trace::ending::end_of_trace),
    side_by_side: &[
        trace::arithmetic::CASES,
        explain::CASES,
        audit::CASES,
        trace::classics::CASES,
        trace::recording::CASES,
        report::CASES,
        top::CASES,
    ],
    alone: &[
        trace::answered::CASES,
        trace::filters::CASES,
        trace::host::CASES,
        trace::cgroups::CASES,
        trace::owners::CASES,
        busy::in_step::CASES,
        busy::shutdown::CASES,
        limits::hard_cases::CASES,
        busy::stopping::CASES,
        limits::refusals::CASES,
        list::timers::CASES,
        list::sockets::CASES,
        list::namespaces::CASES,
        limits::sandbox::CASES,
        remedies::CASES,
    ],
};

fn main() -> ExitCode {
    match Arguments::read().and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scenarios: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the suite or a benchmark; true if nothing failed.
fn run(arguments: &Arguments) -> Result<bool> {
    if !arguments.bench_list.is_empty() {
        return benches::list::run(&arguments.keepalive, &arguments.bench_list).map(|()| true);
    }
    if let Some(options) = &arguments.bench_load {
        benches::load::run(&arguments.keepalive, &arguments.backend, options)?;
        return Ok(true);
    }
    run::run(&CONTENTS, arguments)
}
