//! `cargo xtask fuzz`: fuzzes the reader of recordings and other parsers. Starts from the kept corpus,
//! runs for a while, and fails on the first input that panics, hangs or uses too much memory, which it
//! saves in `target/fuzz`.
//!
//! libFuzzer with the compiler's own coverage: needs neither nightly nor another tool.

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{paths, run, setup};

#[derive(Args)]
pub struct Arguments {
    /// Only this target: recording, frames, text, report, netlink, btf, ignore_file
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Run this many inputs, fewer of the slow targets, with a fixed seed, instead of a time
    #[arg(long)]
    runs: Option<u32>,
}

impl Arguments {
    /// The arguments in CI.
    pub fn bounded() -> Self {
        Self {
            target: None,
            seconds: 0,
            runs: Some(50_000),
        }
    }
}

/// A target, its kept corpus, and the share of the inputs that CI runs, in percent: a target with slower
/// inputs runs fewer.
const TARGETS: [(&str, &str, u32); 7] = [
    ("recording", "recording", 100),
    ("frames", "frames", 100),
    ("text", "frames", 20),
    ("report", "frames", 2),
    ("netlink", "netlink", 100),
    ("btf", "btf", 20),
    ("ignore_file", "ignore_file", 20),
];
/// The flags of cargo-fuzz: counts edges, traces comparisons.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    let directory = paths::root().join("keepalive-user/fuzz");
    let output = paths::target("fuzz");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        // With an explicit target, build scripts and macros are not instrumented.
        .args(["build", "--release", "--locked", "--target", TRIPLE])
        .current_dir(&directory)
        .env("CARGO_TARGET_DIR", &output)
        .env("RUSTFLAGS", INSTRUMENTATION);
    run::step("cargo build fuzz targets", &mut cargo)?;
    for (target, corpus, share) in TARGETS {
        if arguments
            .target
            .as_deref()
            .is_some_and(|only| only != target)
        {
            continue;
        }
        let found = output.join("corpus").join(target);
        fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        let mut fuzzer = Command::new(output.join(TRIPLE).join("release").join(target));
        let bound = match arguments.runs {
            Some(runs) => {
                let runs = (u64::from(runs) * u64::from(share)).div_ceil(100);
                [format!("-runs={runs}"), "-seed=1".to_owned()]
            }
            None => [
                format!("-max_total_time={}", arguments.seconds),
                "-seed=0".to_owned(),
            ],
        };
        fuzzer
            .args(bound)
            .args(["-rss_limit_mb=1024", "-malloc_limit_mb=64", "-timeout=10"])
            .args(["-max_len=65536", "-print_final_stats=1", "-verbosity=0"])
            .arg(format!("-artifact_prefix={}/{target}-", output.display()))
            .arg(found)
            .arg(directory.join("corpus").join(corpus));
        eprintln!("[fuzz] {target}");
        run::inherit(&mut fuzzer)?;
    }
    Ok(ExitCode::SUCCESS)
}
