//! `cargo xtask test`: unit tests, then the scenarios on every kernel of the matrix with every
//! backend, then live on the running kernel.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    build,
    kernels::{Kernel, MATRIX},
    matrix::{Matrix, Suite},
    packages, paths, run, setup,
    vm::{self, Guest},
};

#[derive(Args, Default)]
pub struct Arguments {
    /// Only these kernels of the matrix (comma-separated), and `live` for the running one
    #[arg(long, value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only this backend
    #[arg(long)]
    backend: Option<String>,
    /// Only these scenarios (comma-separated)
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Unit tests alone
    #[arg(long)]
    unit_only: bool,
    /// Print the measurements that scenarios make
    #[arg(short, long)]
    verbose: bool,
}

const BACKENDS: [&str; 2] = ["fentry", "tracepoint"];
const LIVE: &str = "live";
/// A suite takes about half a minute; software emulation on a busy machine a few times that.
const TIMEOUT: Duration = Duration::from_secs(400);

/// Runs what was asked for, all by default.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let start = Instant::now();
    setup::ensure()?;
    let is_subset = !arguments.kernel.is_empty() || !arguments.scenario.is_empty();
    if !is_subset {
        unit_tests()?;
    }
    if arguments.unit_only {
        return Ok(ExitCode::SUCCESS);
    }
    let rows = rows(arguments)?;
    let session = Session {
        arguments,
        keepalive: build::release()?,
        scenarios: build::scenarios()?,
        init: build::vm_init()?,
    };
    let mut matrix = Matrix::default();
    for row in rows {
        for backend in BACKENDS {
            if arguments
                .backend
                .as_deref()
                .is_none_or(|wanted| wanted == backend)
            {
                matrix.add(session.suite(row, backend));
            }
        }
    }
    println!("\n{matrix}");
    println!("[test] {:.0} s in all", start.elapsed().as_secs_f32());
    let (passed, failed) = matrix.counts();
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn unit_tests() -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["test", "--workspace", "--locked", "--quiet"])
        .current_dir(paths::root());
    eprintln!("[test] unit tests");
    run::inherit(&mut cargo)
}

/// The kernels to test: `None` is the running one.
fn rows(arguments: &Arguments) -> Result<Vec<Option<&'static Kernel>>> {
    let all = arguments.kernel.is_empty();
    let mut rows: Vec<Option<&'static Kernel>> = Vec::new();
    if all {
        rows.extend(MATRIX.iter().map(Some));
    }
    for label in arguments.kernel.iter().filter(|label| *label != LIVE) {
        rows.push(Some(Kernel::of(label)?));
    }
    if !rows.is_empty() {
        vm::ensure_qemu()?;
    }
    if all || arguments.kernel.iter().any(|label| label == LIVE) {
        rows.push(None);
    }
    Ok(rows)
}

struct Session<'a> {
    arguments: &'a Arguments,
    keepalive: PathBuf,
    scenarios: PathBuf,
    init: PathBuf,
}

impl Session<'_> {
    /// One run of the suite. Whatever goes wrong is a failure of its column, not of the run.
    fn suite(&self, kernel: Option<&Kernel>, backend: &str) -> Suite {
        let label = kernel.map_or(LIVE, |kernel| kernel.label);
        let mut suite = Suite::new(label, backend);
        let mut log = String::new();
        let outcome = {
            let mut each = |line: &str| {
                log.push_str(line);
                log.push('\n');
                if let Some(shown) = suite.line(line, self.arguments.verbose) {
                    println!("{label}\t{shown}");
                }
            };
            match kernel {
                Some(kernel) => self.in_vm(kernel, backend, &mut each),
                None => self.live(backend, &mut each),
            }
        };
        suite.end(outcome);
        let file = paths::target("vm").join(format!("{label}-{backend}.txt"));
        let _ = fs::create_dir_all(paths::target("vm")).and_then(|()| fs::write(file, log));
        suite
    }

    fn in_vm(&self, kernel: &Kernel, backend: &str, each: &mut dyn FnMut(&str)) -> Result<i32> {
        let guest = Guest {
            kernel,
            accel: "tcg",
            init: &self.init,
            binaries: &[
                ("keepalive", &self.keepalive),
                ("scenarios", &self.scenarios),
            ],
            command: &self.command("scenarios", "/bin/keepalive", kernel.label, backend),
        };
        guest.watch(TIMEOUT, each)
    }

    /// On the running kernel, in network namespaces that the suite makes.
    fn live(&self, backend: &str, each: &mut dyn FnMut(&str)) -> Result<i32> {
        anyhow::ensure!(
            packages::is_root(),
            "live scenarios need root: run `sudo cargo xtask test --kernel live`"
        );
        let scenarios = self.scenarios.to_string_lossy();
        let keepalive = self.keepalive.to_string_lossy();
        let words = self.command(&scenarios, &keepalive, LIVE, backend);
        eprintln!("[live] {backend}");
        let output = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run the scenario suite")?;
        run::text(&output.stdout).lines().for_each(each);
        Ok(output.status.code().unwrap_or(128))
    }

    fn command(&self, scenarios: &str, keepalive: &str, label: &str, backend: &str) -> Vec<String> {
        let mut words: Vec<String> = [
            scenarios,
            "--keepalive",
            keepalive,
            "--backend",
            backend,
            "--kernel",
            label,
        ]
        .map(str::to_owned)
        .into();
        for name in &self.arguments.scenario {
            words.extend(["--only".to_owned(), name.clone()]);
        }
        words
    }
}
