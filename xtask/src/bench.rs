//! `cargo xtask bench`: prints measurements. It asserts nothing about time.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use crate::{
    build,
    kernels::Kernel,
    packages::{self, Tool},
    paths, run, setup, test,
    vm::{self, Guest},
};

#[derive(Subcommand)]
pub enum Bench {
    /// Measure each BPF program with 2,000 sockets, on every kernel of the matrix and live
    Programs,
    /// Measure the replay of recordings, and the memory of a tracked socket
    Replay,
    /// Measure `list` against `ss`, alternating, on the same sockets
    List {
        /// How many sockets
        #[arg(long, default_value = "1000,10000,100000")]
        sockets: String,
        /// Kernel of the matrix instead of the running one
        #[arg(long)]
        kernel: Option<String>,
    },
    /// Measure a busy host: many probes, short connections and settings, with the tracer and without,
    /// alternating, on the running kernel (needs root)
    Load(Load),
}

#[derive(Args)]
pub struct Load {
    /// Fewer and shorter windows
    #[arg(long)]
    quick: bool,
    /// auto, fentry or tracepoint
    #[arg(long, default_value = "auto")]
    backend: String,
    /// This binary instead of the one built here
    #[arg(long, value_name = "PATH")]
    keepalive: Option<PathBuf>,
    /// Only these (comma-separated): probes, churn, churn_flat_out, setsockopt_storm
    #[arg(long, value_delimiter = ',')]
    workload: Vec<String>,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
}

const SS: &[Tool] = &[Tool {
    path: "ss",
    package: "iproute2",
}];
/// Software emulation is slow, and so is `ss -p` with many sockets.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Memory for 100,000 sockets and their buffers.
const MEMORY_MIB: u32 = 4096;

pub fn run(what: &Bench) -> Result<ExitCode> {
    match what {
        Bench::Programs => test::run(&test::Arguments::bench()),
        Bench::Replay => replay(),
        Bench::List { sockets, kernel } => list(sockets, kernel.as_deref()),
        Bench::Load(arguments) => load(arguments),
    }
}

fn replay() -> Result<ExitCode> {
    setup::ensure()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "bench",
            "--locked",
            "--quiet",
            "--package",
            "keepalive-user",
        ])
        .args(["--bench", "replay"])
        .current_dir(paths::root());
    eprintln!("[bench] building, then a minute or two");
    run::inherit(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}

fn load(arguments: &Load) -> Result<ExitCode> {
    ensure!(
        packages::is_root(),
        "the load benchmark traces, which needs root: run `sudo cargo xtask bench load`"
    );
    setup::ensure()?;
    let keepalive = match &arguments.keepalive {
        Some(path) => path.clone(),
        None => build::release()?,
    };
    let mut command = Command::new(build::scenarios()?);
    command
        .arg("--keepalive")
        .arg(keepalive)
        .args(["--backend", &arguments.backend, "--bench-load"])
        .arg(if arguments.quick { "quick" } else { "full" });
    for workload in &arguments.workload {
        command.args(["--only", workload]);
    }
    if arguments.json {
        command.args(["--format", "json"]);
    }
    run::inherit(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

fn list(sockets: &str, kernel: Option<&str>) -> Result<ExitCode> {
    setup::ensure()?;
    packages::ensure(SS)?;
    let keepalive = build::release()?;
    let scenarios = build::scenarios()?;
    let Some(label) = kernel else {
        let mut command = Command::new(&scenarios);
        command
            .arg("--keepalive")
            .arg(&keepalive)
            .args(["--bench-list", sockets]);
        run::inherit(&mut command)?;
        return Ok(ExitCode::SUCCESS);
    };
    vm::ensure_qemu()?;
    let kernel = Kernel::of(label)?;
    let command = [
        "scenarios",
        "--keepalive",
        "/bin/keepalive",
        "--bench-list",
        sockets,
    ];
    let guest = Guest {
        name: &format!("{label}-bench"),
        kernel,
        accel: vm::ACCEL,
        memory_mib: MEMORY_MIB,
        init: &build::vm_init()?,
        binaries: &[("keepalive", &keepalive), ("scenarios", &scenarios)],
        command: &command.map(str::to_owned),
    };
    let code = guest.watch(TIMEOUT, |line| println!("{line}"))?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
