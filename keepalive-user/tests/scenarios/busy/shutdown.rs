//! A trace ends at once and with its totals, however it is ended, under a load of short connections
//! whose owners exit before they can be resolved and of many descriptors held by other processes.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::harness::bench::{Bench, HardCase};
use crate::kit::net::{self, Namespace};
use crate::kit::socket::{Keepalive, LOCALHOST, Tcp};
use crate::kit::sys::{self, hold};
use crate::kit::tracer::PATIENCE;
use crate::kit::worker::{Line, Worker};

pub const CASES: &[HardCase] = &[HardCase {
    name: "shutdown_under_churn",
    run: shutdown_under_churn,
}];

const CONNECTIONS_PER_S: u32 = 300;
const HELD_ELSEWHERE: usize = 5000;
/// How long each trace runs before it is ended.
const RUN: Duration = Duration::from_secs(2);

/// How a trace is ended.
enum Ask {
    Signal(Signal),
    /// By itself, after `RUN`.
    Duration,
    /// By itself, after the first events.
    Count,
}

fn shutdown_under_churn(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    net::sysctl("tcp_max_tw_buckets", 100)?;
    let _elsewhere = Worker::start("descriptors elsewhere", hold_descriptors)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let churn = scope.spawn(|| churn(&stop));
        let outcome = [
            Ask::Signal(Signal::INT),
            Ask::Signal(Signal::TERM),
            Ask::Duration,
            Ask::Count,
        ]
        .iter()
        .try_for_each(|ask| ends_in_time(bench, ask));
        stop.store(true, Ordering::Relaxed);
        let made = churn.join().ok().context("the churn panicked")??;
        ensure!(made > 0, "the churn made no connection");
        outcome
    })
}

fn ends_in_time(bench: &Bench, ask: &Ask) -> Result<()> {
    let (what, options, after): (_, &[&str], _) = match ask {
        Ask::Signal(Signal::INT) => ("SIGINT", &[], RUN),
        Ask::Signal(_) => ("SIGTERM", &[], RUN),
        Ask::Duration => ("-d", &["-d", "2s"], RUN),
        Ask::Count => ("-n", &["-n", "20"], Duration::ZERO),
    };
    let tracer = bench.trace(options)?;
    let begin = Instant::now();
    if matches!(ask, Ask::Count) {
        // The trace ends with the last counted event, which is one of the churn.
        let first = tracer.wait_for_line(PATIENCE, |line| line.key().is_some());
        ensure!(first.is_some(), "no event of the churn");
    }
    if let Ask::Signal(signal) = ask {
        thread::sleep(RUN);
        sys::signal(tracer.pid(), *signal).with_context(|| what.to_owned())?;
    }
    let ended = tracer.end().with_context(|| what.to_owned())?;
    let late = begin.elapsed().saturating_sub(after);
    ensure!(ended.status.success(), "{what}: {}", ended.status);
    ended.end().with_context(|| what.to_owned())?;
    let allowed = allowed();
    ensure!(
        late <= allowed,
        "{what}: the end took {late:?}, at most {allowed:?} is allowed"
    );
    Ok(())
}

/// One second; more on an emulated CPU, which is about ten times slower and which a guest may have
/// to share.
fn allowed() -> Duration {
    sys::second_or(10)
}

fn hold_descriptors(mut line: Line) -> Result<()> {
    sys::allow_open_files(HELD_ELSEWHERE as u64 + 100)?;
    let held = (0..HELD_ELSEWHERE).map(|_| UnixDatagram::unbound());
    let _held: Vec<UnixDatagram> = held.collect::<Result<_, _>>()?;
    line.ready()?;
    hold()
}

/// Makes connections that set keepalive before connect and are closed at once.
fn churn(stop: &AtomicBool) -> Result<u64> {
    let listener = Tcp::new(LOCALHOST)?;
    listener.listen(LOCALHOST)?;
    let to = SocketAddr::new(LOCALHOST, listener.local()?.port());
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let client = Tcp::new(LOCALHOST)?;
        client.arm(Keepalive::after(60))?;
        client.connect(to)?;
        drop(listener.accept()?);
        drop(client);
        made += 1;
        thread::sleep(Duration::from_secs(1) / CONNECTIONS_PER_S);
    }
    Ok(made)
}
