//! The workloads: many probed sockets, many short connections, many settings.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Summary;
use crate::kit::net;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::sys::{self, hold};
use crate::kit::witness::Counters;
use crate::kit::worker::{Counter, Line, Worker};
use crate::trace::silent::Silent;

/// Whether each goal was reached.
type Goals = Vec<(&'static str, bool)>;

pub struct Workload {
    pub name: &'static str,
    /// The unit of its rate, per second.
    pub unit: &'static str,
    pub start: fn() -> Result<Load>,
    pub goals: fn(&Summary) -> Goals,
}

pub const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "probes",
        unit: "probes/s",
        start: probes,
        goals: |summary| {
            vec![
                ("nothing lost", summary.lost == Some(0)),
                MEMORY(summary),
                SPEED(summary),
            ]
        },
    },
    Workload {
        name: "churn",
        unit: "connections/s",
        start: || churn(Some(CHURN_PER_S)),
        goals: |summary| {
            vec![
                ("at most 5 % of a CPU", summary.cpu_percent <= 5.0),
                MEMORY(summary),
                PROMPT(summary),
            ]
        },
    },
    Workload {
        name: "churn_flat_out",
        unit: "connections/s",
        start: || churn(None),
        goals: |summary| vec![MEMORY(summary), SPEED(summary), PROMPT(summary)],
    },
    Workload {
        name: "setsockopt_storm",
        unit: "setsockopt/s",
        start: storm,
        goals: |summary| vec![MEMORY(summary), SPEED(summary), PROMPT(summary)],
    },
];

const MEMORY: fn(&Summary) -> (&'static str, bool) =
    |summary| ("at most 64 MB", summary.peak_mb <= 64.0);
const SPEED: fn(&Summary) -> (&'static str, bool) =
    |summary| ("the workload at most 3 % slower", summary.ratio >= 0.97);
const PROMPT: fn(&Summary) -> (&'static str, bool) = |summary| {
    (
        "ends within a second of SIGINT",
        summary.end_s.is_some_and(|seconds| seconds <= 1.0),
    )
};

/// A running workload.
pub struct Load {
    _workers: Vec<Worker>,
    /// The counter that the workers share; without one the kernel's TCPKeepAlive is used.
    counter: Option<Counter>,
}

impl Load {
    /// Operations so far.
    pub fn count(&self) -> Result<u64> {
        match self.counter {
            Some(counter) => Ok(counter.get()),
            None => Ok(Counters::read()?.keepalive_probes()),
        }
    }
}

const PROBED_SOCKETS: usize = 50_000;
/// Both ends send probes, and both are descriptors of the process.
const PER_PROCESS: usize = 12_500;
/// Outlives the benchmark although the peer is silent: TCP_USER_TIMEOUT overrides TCP_KEEPCNT.
const PROBED: Keepalive = Keepalive::EVERY_SECOND.user_timeout_ms(3_600_000);

/// Sockets that receive nothing: each sends a probe every second. A socket whose peer answers would
/// send a probe only every other second.
fn probes() -> Result<Load> {
    let workers = (0..PROBED_SOCKETS / PER_PROCESS)
        .map(|_| Worker::start("probed sockets", hold_probed))
        .collect::<Result<_>>()?;
    // Waits until the last socket has started to send probes.
    thread::sleep(Duration::from_secs(2));
    Ok(Load {
        _workers: workers,
        counter: None,
    })
}

fn hold_probed(mut line: Line) -> Result<()> {
    let silent = Silent::connect(PER_PROCESS / 2, PROBED)?;
    silent.switch_on()?;
    line.ready()?;
    hold()
}

const CHURN_PER_S: u32 = 5000;
const HOLDERS: usize = 10;
const HELD_BY_EACH: usize = 10_000;

/// Short connections with keepalive, at a given rate or as fast as possible, while other processes
/// hold many descriptors.
fn churn(per_second: Option<u32>) -> Result<Load> {
    // Otherwise client ends would stay in TIME_WAIT for a minute each, and the ports would run out.
    net::sysctl("tcp_max_tw_buckets", 1000)?;
    net::sysctl("ip_local_port_range", "1024 65000")?;
    let mut workers = (0..HOLDERS)
        .map(|_| Worker::start("held descriptors", hold_descriptors))
        .collect::<Result<Vec<_>>>()?;
    let counter = Counter::new()?;
    workers.push(Worker::start("short connections", move |line| {
        connect_all_the_time(per_second, counter, line)
    })?);
    Ok(Load {
        _workers: workers,
        counter: Some(counter),
    })
}

fn hold_descriptors(mut line: Line) -> Result<()> {
    sys::allow_open_files(HELD_BY_EACH as u64 + 100)?;
    let held = (0..HELD_BY_EACH).map(|_| UnixDatagram::unbound());
    let _held: Vec<UnixDatagram> = held.collect::<Result<_, _>>()?;
    line.ready()?;
    hold()
}

fn connect_all_the_time(per_second: Option<u32>, counter: Counter, mut line: Line) -> Result<()> {
    let listener = Tcp::new(LOCALHOST)?;
    listener.listen(LOCALHOST)?;
    let to = SocketAddr::new(LOCALHOST, listener.local()?.port());
    line.ready()?;
    let mut pace = per_second.map(Pace::new);
    loop {
        if let Some(pace) = &mut pace {
            pace.wait();
        }
        let client = Tcp::new(LOCALHOST)?;
        client.arm(Keepalive::after(60))?;
        client.connect(to)?;
        let server = listener.accept()?;
        drop(client);
        drop(server);
        counter.add(1);
    }
}

/// Steps at an even rate. Steps that are very late are skipped, not caught up.
struct Pace {
    step: Duration,
    next: Instant,
}

impl Pace {
    const MOST_LATE: Duration = Duration::from_millis(100);

    fn new(per_second: u32) -> Self {
        Self {
            step: Duration::from_secs(1) / per_second,
            next: Instant::now(),
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        match self.next.checked_duration_since(now) {
            Some(early) => thread::sleep(early),
            None if now - self.next > Self::MOST_LATE => self.next = now,
            None => {}
        }
        self.next += self.step;
    }
}

/// Connections whose keepalive is switched on, retimed and switched off in turn.
fn storm() -> Result<Load> {
    const CONNECTIONS: usize = 64;
    let counter = Counter::new()?;
    let worker = Worker::start("setsockopt storm", move |mut line| {
        let pairs: Vec<Pair> = (0..CONNECTIONS)
            .map(|_| Pair::over(LOCALHOST))
            .collect::<Result<_>>()?;
        line.ready()?;
        let mut idle = 600;
        loop {
            idle = 600 + (idle + 1) % 600;
            for pair in &pairs {
                pair.client.switch_keepalive(true)?;
                pair.client.set_idle(idle)?;
                pair.client.switch_keepalive(false)?;
            }
            counter.add(3 * CONNECTIONS as u64);
        }
    })?;
    Ok(Load {
        _workers: vec![worker],
        counter: Some(counter),
    })
}
