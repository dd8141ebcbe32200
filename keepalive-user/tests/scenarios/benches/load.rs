//! The load benchmark: how much CPU time the tracer takes on a busy host, and by how much it slows
//! the workload down.
//!
//! Each workload runs continuously in processes of its own; windows with and without a tracer
//! alternate, so that other load on the machine affects both. Prints medians and ratios beside the
//! goals, and asserts nothing about time.

mod tracer;
mod workload;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use self::tracer::{Finished, Loaded};
use self::workload::{Load, WORKLOADS, Workload};
use crate::kit::net::Namespace;

/// How to run the benchmark.
pub struct Options {
    /// Fewer and shorter windows on the same workloads.
    pub quick: bool,
    /// Only these workloads; all if empty.
    pub only: Vec<String>,
    /// JSON lines instead of a table.
    pub json: bool,
}

/// After a tracer has started, and before a window without one.
const SETTLE: Duration = Duration::from_secs(1);

impl Options {
    fn pairs(&self) -> usize {
        if self.quick { 2 } else { 4 }
    }

    fn window(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 6 })
    }
}

/// One window.
#[derive(Clone, Copy)]
struct Window {
    /// Operations of the workload per second.
    rate: f64,
    /// Share of all CPUs that was not idle, percent.
    busy: f64,
}

/// One window without and one with the tracer.
struct Pair {
    without: Window,
    with: Window,
    finished: Finished,
}

/// Runs the workloads one after the other.
pub fn run(keepalive: &str, backend: &str, options: &Options) -> Result<()> {
    for name in &options.only {
        ensure!(
            WORKLOADS.iter().any(|workload| workload.name == name),
            "no workload {name:?}; there are {}",
            WORKLOADS.map(|workload| workload.name).join(", ")
        );
    }
    if !options.json {
        println!(
            "{:18} {:>17} {:>10} {:>10} {:>20} {:>7} {:>7} {:>10} {:>8} {:>9}",
            "workload",
            "unit",
            "without",
            "with",
            "ratio (min–max)",
            "CPU %",
            "MB",
            "lost",
            "missed",
            "end s"
        );
    }
    for workload in &WORKLOADS {
        if options.only.is_empty() || options.only.iter().any(|name| name == workload.name) {
            let home = Namespace::current()?;
            let outcome = measure(workload, keepalive, backend, options);
            home.enter()?;
            let pairs = outcome.with_context(|| format!("workload {}", workload.name))?;
            print(workload, backend, &pairs, options);
        }
    }
    Ok(())
}

fn measure(
    workload: &Workload,
    keepalive: &str,
    backend: &str,
    options: &Options,
) -> Result<Vec<Pair>> {
    let _namespace = Namespace::create()?;
    eprintln!(
        "[bench load] {}: setting up; load average {}",
        workload.name,
        load_average()
    );
    let load = (workload.start)()?;
    let mut pairs = Vec::new();
    for number in 0..options.pairs() {
        // The order alternates, so that a drift of the machine affects both kinds of window
        // equally.
        let first = number % 2 == 0;
        let before = first.then(|| without(&load, options)).transpose()?;
        let (with, finished) = with(&load, keepalive, backend, options)?;
        let without = match before {
            Some(window) => window,
            None => without(&load, options)?,
        };
        pairs.push(Pair {
            without,
            with,
            finished,
        });
        eprintln!(
            "[bench load] {}: {} of {}, load average {}",
            workload.name,
            number + 1,
            options.pairs(),
            load_average()
        );
    }
    Ok(pairs)
}

fn without(load: &Load, options: &Options) -> Result<Window> {
    thread::sleep(SETTLE);
    window(load, options)
}

fn with(
    load: &Load,
    keepalive: &str,
    backend: &str,
    options: &Options,
) -> Result<(Window, Finished)> {
    let mut tracer = Loaded::spawn(keepalive, backend)?;
    thread::sleep(SETTLE);
    tracer.begin_window()?;
    let window = window(load, options)?;
    tracer.end_window()?;
    Ok((window, tracer.finish()?))
}

fn window(load: &Load, options: &Options) -> Result<Window> {
    let (begin, count, cpu) = (Instant::now(), load.count()?, Cpu::read()?);
    thread::sleep(options.window());
    let done = load.count()?.saturating_sub(count);
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    ensure!(done > 0, "the workload has stopped");
    Ok(Window {
        rate,
        busy: Cpu::read()?.busy_since(&cpu),
    })
}

/// The machine's CPU time since boot, in ticks.
struct Cpu {
    idle: u64,
    total: u64,
}

impl Cpu {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        let [_, _, _, idle, iowait, ..] = ticks[..] else {
            bail!("/proc/stat begins with {line:?}");
        };
        Ok(Self {
            idle: idle + iowait,
            // guest and guest_nice, after the first eight fields, are already part of user and
            // nice.
            total: ticks.iter().take(8).sum(),
        })
    }

    fn busy_since(&self, before: &Self) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        let idle = self.idle.saturating_sub(before.idle);
        100.0 * (1.0 - idle as f64 / total as f64)
    }
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The summary of all pairs of a workload.
pub struct Summary {
    pub without: f64,
    pub with: f64,
    pub ratio: f64,
    pub cpu_percent: f64,
    pub peak_mb: f64,
    /// Observations lost, over all runs; `None` if a tracer was killed before it printed them.
    pub lost: Option<u64>,
    pub missed: Option<u64>,
    /// From SIGINT to the exit, the slowest, seconds; `None` if it had to be killed.
    pub end_s: Option<f64>,
}

fn summarize(pairs: &[Pair]) -> Summary {
    let of = |value: &dyn Fn(&Pair) -> f64| median(pairs.iter().map(value).collect());
    let largest = |value: &dyn Fn(&Pair) -> f64| pairs.iter().map(value).fold(0.0, f64::max);
    let all = |value: &dyn Fn(&Finished) -> Option<u64>| {
        pairs.iter().map(|pair| value(&pair.finished)).sum()
    };
    let ends: Option<Vec<f64>> = pairs.iter().map(|pair| pair.finished.end_s).collect();
    Summary {
        without: of(&|pair| pair.without.rate),
        with: of(&|pair| pair.with.rate),
        ratio: of(&ratio),
        cpu_percent: of(&|pair| pair.finished.cpu_percent),
        peak_mb: largest(&|pair| pair.finished.peak_kib as f64 / 1024.0),
        lost: all(&Finished::lost),
        missed: all(&Finished::missed),
        end_s: ends.map(|ends| ends.into_iter().fold(0.0, f64::max)),
    }
}

fn ratio(pair: &Pair) -> f64 {
    pair.with.rate / pair.without.rate
}

/// For an even number of values, the mean of the middle two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = [values.len().saturating_sub(1) / 2, values.len() / 2];
    middle
        .iter()
        .filter_map(|&index| values.get(index))
        .sum::<f64>()
        / 2.0
}

fn print(workload: &Workload, backend: &str, pairs: &[Pair], options: &Options) {
    let summary = summarize(pairs);
    if options.json {
        println!("{}", line(workload, backend, pairs, &summary));
        return;
    }
    let mut ratios: Vec<f64> = pairs.iter().map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let range = (ratios.first(), ratios.last());
    let range = match range {
        (Some(least), Some(most)) => format!("{:.3} ({least:.3}–{most:.3})", summary.ratio),
        _ => String::new(),
    };
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    println!(
        "{:18} {:>17} {:>10.0} {:>10.0} {range:>20} {:>7.1} {:>7.1} {:>10} {:>8} {:>9}",
        workload.name,
        workload.unit,
        summary.without,
        summary.with,
        summary.cpu_percent,
        summary.peak_mb,
        number(summary.lost),
        number(summary.missed),
        summary
            .end_s
            .map_or("killed".to_owned(), |seconds| format!("{seconds:.2}")),
    );
    for (goal, reached) in (workload.goals)(&summary) {
        println!("  {} {goal}", if reached { "✓" } else { "✗" });
    }
}

fn line(workload: &Workload, backend: &str, pairs: &[Pair], summary: &Summary) -> Value {
    let runs: Vec<Value> = pairs
        .iter()
        .map(|pair| {
            json!({
                "without_per_s": pair.without.rate,
                "with_per_s": pair.with.rate,
                "machine_busy_without_percent": pair.without.busy,
                "machine_busy_with_percent": pair.with.busy,
                "cpu_percent": pair.finished.cpu_percent,
                "peak_kib": pair.finished.peak_kib,
                "end_s": pair.finished.end_s,
                "lost": pair.finished.counts("lost"),
                "missed": pair.finished.counts("missed"),
            })
        })
        .collect();
    let goals: Vec<Value> = (workload.goals)(summary)
        .into_iter()
        .map(|(goal, reached)| json!({ "goal": goal, "reached": reached }))
        .collect();
    json!({
        "workload": workload.name,
        "unit": workload.unit,
        "backend": backend,
        "load_average": load_average(),
        "without_per_s": summary.without,
        "with_per_s": summary.with,
        "ratio": summary.ratio,
        "cpu_percent": summary.cpu_percent,
        "peak_mb": summary.peak_mb,
        "lost": summary.lost,
        "missed": summary.missed,
        "end_s": summary.end_s,
        "goals": goals,
        "runs": runs,
    })
}
