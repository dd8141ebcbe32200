//! `cargo xtask test`: unit tests, then the scenarios on every kernel of the matrix with every
//! backend, then live on the running kernel.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    build,
    kernels::{Kernel, MATRIX},
    matrix::{Matrix, Suite},
    packages::{self, Tool},
    paths, run, setup,
    vm::{self, Guest},
};

#[derive(Args)]
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
    /// Run only the unit tests
    #[arg(long, conflicts_with_all = ["kernel", "backend", "scenario"])]
    unit_only: bool,
    /// Print the measurements of the scenarios
    #[arg(short, long)]
    verbose: bool,
    /// Virtual machines at once; each keeps a CPU busy
    #[arg(short, long, default_value_t = 2)]
    jobs: usize,
}

impl Arguments {
    /// The arguments of plain `cargo xtask test`.
    pub fn everything() -> Self {
        Self {
            kernel: Vec::new(),
            backend: None,
            scenario: Vec::new(),
            unit_only: false,
            verbose: false,
            jobs: 2,
        }
    }

    /// The arguments of `cargo xtask bench`: the measuring scenario, one machine at a time.
    pub fn bench() -> Self {
        Self {
            scenario: vec!["two_thousand_sockets".to_owned()],
            verbose: true,
            jobs: 1,
            ..Self::everything()
        }
    }
}

const BACKENDS: [&str; 2] = ["fentry", "tracepoint"];
const LIVE: &str = "live";
/// Programs of the distribution that scenarios use on the running kernel: servers and clients, `ss`, a browser,
/// a terminal.
const SERVERS: &[Tool] = &[
    Tool {
        path: "/usr/sbin/apache2",
        package: "apache2-bin",
    },
    Tool {
        path: "/usr/bin/redis-server",
        package: "redis-server",
    },
    Tool {
        path: "/usr/lib/postgresql/15/bin/postgres",
        package: "postgresql-15",
    },
    Tool {
        path: "/usr/sbin/nginx",
        package: "nginx",
    },
    Tool {
        path: "/usr/lib/nginx/modules/ngx_stream_module.so",
        package: "libnginx-mod-stream",
    },
    Tool {
        path: "/usr/sbin/haproxy",
        package: "haproxy",
    },
    Tool {
        path: "/usr/sbin/sshd",
        package: "openssh-server",
    },
    Tool {
        path: "/usr/bin/ssh",
        package: "openssh-client",
    },
    Tool {
        path: "/usr/lib/postgresql/15/bin/psql",
        package: "postgresql-client-15",
    },
    Tool {
        path: "/usr/sbin/pgbouncer",
        package: "pgbouncer",
    },
    Tool {
        path: "/usr/sbin/mariadbd",
        package: "mariadb-server",
    },
    Tool {
        path: "/usr/bin/curl",
        package: "curl",
    },
    Tool {
        path: "/usr/bin/python3",
        package: "python3",
    },
    Tool {
        path: "/usr/bin/node",
        package: "nodejs",
    },
    Tool {
        path: "/usr/bin/chromium",
        package: "chromium",
    },
    Tool {
        path: "/usr/sbin/nft",
        package: "nftables",
    },
    Tool {
        path: "ss",
        package: "iproute2",
    },
    Tool {
        path: "tmux",
        package: "tmux",
    },
];
/// A suite takes two to four minutes in software emulation, and several times that on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// Runs the requested tests, by default all.
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
    for suite in session.suites(&rows) {
        matrix.add(suite);
    }
    println!("\n{matrix}");
    println!("[test] {:.0} s in all", start.elapsed().as_secs_f32());
    let (passed, failed) = matrix.counts();
    if matrix.quarantined() > 0 {
        println!("[test] {} quarantined", matrix.quarantined());
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Installs and downloads the prerequisites of the tests, on a separate thread, because that takes time
/// and hardly any CPU. Failures here are repeated, with their reason, where the prerequisite is needed.
pub fn begin_to_fetch() -> thread::JoinHandle<()> {
    thread::spawn(|| {
        let programs = vm::ensure_qemu().and_then(|()| packages::ensure(SERVERS));
        let kernels = MATRIX.iter().map(|kernel| kernel.fetch().map(drop));
        for error in std::iter::once(programs)
            .chain(kernels)
            .filter_map(Result::err)
        {
            eprintln!("[test] {error:#}");
        }
    })
}

fn unit_tests() -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["test", "--workspace", "--locked", "--quiet"])
        .current_dir(paths::root());
    run::timed("unit tests", &mut cargo)
}

fn label(kernel: Option<&Kernel>) -> &'static str {
    kernel.map_or(LIVE, |kernel| kernel.label)
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
    /// All columns: the virtual machines in parallel, then the running kernel alone.
    fn suites(&self, rows: &[Option<&Kernel>]) -> Vec<Suite> {
        let wanted = self.arguments.backend.as_deref();
        let columns: Vec<(Option<&Kernel>, &str)> = rows
            .iter()
            .flat_map(|row| BACKENDS.iter().map(|backend| (*row, *backend)))
            .filter(|(_, backend)| wanted.is_none_or(|wanted| wanted == *backend))
            .collect();
        let guests: Vec<_> = columns
            .iter()
            .filter(|(kernel, _)| kernel.is_some())
            .collect();
        // Sequentially, before any is booted; a failure here is repeated in its column.
        for kernel in rows.iter().flatten() {
            if let Err(error) = kernel.fetch() {
                eprintln!("[test] {error:#}");
            }
        }
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some((kernel, backend)) = guests.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(self.suite(*kernel, backend));
            }
            done
        };
        let mut suites: Vec<Suite> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.arguments.jobs.max(1))
                .map(|_| scope.spawn(work))
                .collect();
            workers
                .into_iter()
                .filter_map(|worker| worker.join().ok())
                .flatten()
                .collect()
        });
        let live = columns.iter().filter(|(kernel, _)| kernel.is_none());
        suites.extend(live.map(|(kernel, backend)| self.suite(*kernel, backend)));
        // In the order of the matrix, independent of the order of completion.
        suites.sort_by_key(|suite| {
            columns
                .iter()
                .position(|(kernel, backend)| suite.is_of(label(*kernel), backend))
        });
        suites
    }

    /// One run of the suite. Any error fails its column, not the whole run.
    fn suite(&self, kernel: Option<&Kernel>, backend: &str) -> Suite {
        let label = label(kernel);
        let mut suite = Suite::new(label, backend);
        let begin = Instant::now();
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
        suite.end(outcome, begin.elapsed());
        let file = paths::target("vm").join(format!("{label}-{backend}.txt"));
        let _ = fs::create_dir_all(paths::target("vm")).and_then(|()| fs::write(file, log));
        suite
    }

    fn in_vm(&self, kernel: &Kernel, backend: &str, each: &mut dyn FnMut(&str)) -> Result<i32> {
        let guest = Guest {
            name: &format!("{}-{backend}", kernel.label),
            kernel,
            accel: vm::ACCEL,
            memory_mib: vm::MEMORY_MIB,
            init: &self.init,
            binaries: &[
                ("keepalive", &self.keepalive),
                ("scenarios", &self.scenarios),
            ],
            command: &self.command("scenarios", "/bin/keepalive", kernel.label, backend),
        };
        guest.watch(TIMEOUT, each)
    }

    /// Runs the suite on the running kernel, in network namespaces that it creates.
    fn live(&self, backend: &str, each: &mut dyn FnMut(&str)) -> Result<i32> {
        anyhow::ensure!(
            packages::is_root(),
            "live scenarios need root: run `sudo cargo xtask test --kernel live`"
        );
        packages::ensure(SERVERS)?;
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
