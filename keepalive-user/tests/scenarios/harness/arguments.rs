//! The command line of the suite, which `cargo xtask test` and `cargo xtask bench` call.

use anyhow::{Context, Result, bail};

use crate::benches::load;

/// The usage line.
const USAGE: &str = "usage: scenarios --keepalive PATH --backend fentry|tracepoint \
                     [--only NAME]... [--kernel LABEL]\n       \
                     scenarios --keepalive PATH --bench-list SOCKETS,SOCKETS...\n       \
                     scenarios --keepalive PATH --backend NAME --bench-load full|quick \
                     [--only WORKLOAD]... [--format table|json]";

/// The label of the running kernel.
const LIVE: &str = "live";

pub struct Arguments {
    pub keepalive: String,
    pub backend: String,
    pub only: Vec<String>,
    /// Its label in the matrix.
    pub kernel: Option<String>,
    /// Numbers of sockets to measure `list` with, instead of the suite.
    pub bench_list: Vec<usize>,
    /// The load benchmark, instead of the suite.
    pub bench_load: Option<load::Options>,
}

impl Arguments {
    /// Parses the arguments of this process.
    pub fn read() -> Result<Self> {
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
        let bench_load = bench_load.map(|quick| load::Options {
            quick,
            only: only.clone(),
            json,
        });
        Ok(Self {
            keepalive: keepalive.context(USAGE)?,
            backend: backend.context(USAGE)?,
            only,
            kernel,
            bench_list,
            bench_load,
        })
    }

    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// Whether this is the running kernel, not one of the matrix.
    pub fn is_live(&self) -> bool {
        self.kernel.as_deref() == Some(LIVE)
    }
}
