//! Runs scenarios: many in parallel, each on a thread with its own network namespace.
//!
//! The suite does not use an existing harness. libtest-mimic 0.8.2, the usual one, has the outcomes
//! passed, failed and ignored. A quarantined failure would have to be one of these, so the matrix
//! could not distinguish `q` from `✗` or `–`. Its JSON lines contain neither the reason why a
//! scenario is ignored nor how long a scenario took, and they cannot carry notes (`cargo xtask test
//! -v`). One run has one number of threads, but a run of this suite has four parts with 16, 1, all
//! and 1 scenarios in parallel, and the shared tracer ends between them: this would be four runs
//! with four summaries. It could replace only the thread pool and the panic handling: about 30
//! lines of this file, by 1,215 lines of its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::harness::quarantine::{self, Evidence};
use crate::kit::event::{Event, Key};
use crate::kit::expect::Facts;
use crate::kit::net::Namespace;
use crate::kit::socket::Tcp;
use crate::kit::sys;
use crate::kit::tracer::{self, PATIENCE, Tracer, Unseen};
use crate::kit::watch::Watch;

/// How many scenarios run in parallel: they mostly wait for timers.
const AT_A_TIME: usize = 16;

/// One row of the matrix.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Stage<'_>) -> Result<()>,
}

/// What a scenario works with.
pub struct Stage<'t> {
    pub tracer: &'t Tracer,
    pub facts: Facts,
    /// When the scenario's namespace was created, CLOCK_MONOTONIC nanoseconds.
    began_ns: AtomicU64,
    watched: Mutex<Vec<Key>>,
    notes: Mutex<Vec<String>>,
}

impl<'t> Stage<'t> {
    fn new(tracer: &'t Tracer, facts: Facts) -> Self {
        Self {
            tracer,
            facts,
            began_ns: AtomicU64::new(0),
            watched: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    /// Follows a connected socket of this process; its events are printed if the scenario fails.
    pub fn watch(&self, socket: &Tcp) -> Result<Watch<'t>> {
        let watch = Watch::new(self.tracer, socket)?;
        self.show(watch.key);
        Ok(watch)
    }

    /// Prints the events of this socket if the scenario fails.
    pub fn show(&self, key: Key) {
        lock(&self.watched).push(key);
    }

    /// All events of the calling thread's namespace since the scenario began.
    pub fn events(&self) -> Result<Vec<Event>> {
        let here = Namespace::current()?.inode;
        let since = self.began_ns.load(Ordering::Relaxed);
        Ok(self.tracer.events_in(here, since))
    }

    /// A measurement to print with the result.
    pub fn note(&self, text: String) {
        lock(&self.notes).push(text);
    }

    /// Waits until a number of outstanding items is zero; it may fall slowly as long as it falls.
    pub fn until_none(&self, what: &str, mut left: impl FnMut() -> Result<usize>) -> Result<()> {
        let mut latest = (usize::MAX, Instant::now());
        loop {
            let now = left()?;
            if now == 0 {
                return Ok(());
            }
            if now < latest.0 {
                latest = (now, Instant::now());
            }
            if latest.1.elapsed() > PATIENCE {
                bail!("{now} of {what} are left, and none arrived for {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a condition is true.
    pub fn until(&self, what: &str, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !happened()? {
            if Instant::now() > deadline {
                bail!("waited {PATIENCE:?} for {what}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// How a scenario ended.
pub enum Verdict {
    Passed,
    Failed {
        reason: String,
        details: Vec<String>,
    },
    /// Failed for a reason in the quarantine list.
    Quarantined {
        reason: &'static str,
        failure: String,
    },
    NotApplicable(String),
}

/// A finished scenario.
pub struct Report {
    pub name: &'static str,
    pub verdict: Verdict,
    pub took: Duration,
    pub notes: Vec<String>,
}

impl Report {
    /// The same report, quarantined if the scenario failed and there is evidence for a known cause.
    /// `before` is what tracers had missed before the scenario began.
    pub fn judged(mut self, live: bool, before: Unseen) -> Self {
        if let Verdict::Failed { reason, details } = self.verdict {
            // A tracer reports missed actions once a second.
            thread::sleep(Duration::from_millis(2500));
            let now = tracer::unseen();
            let evidence = Evidence {
                name: self.name,
                live,
                missed: now.missed - before.missed,
                skipped: now.skipped - before.skipped,
            };
            self.verdict = match quarantine::reason(&evidence) {
                Some(cause) => Verdict::Quarantined {
                    reason: cause,
                    failure: reason,
                },
                None => Verdict::Failed { reason, details },
            };
        }
        self
    }
}

/// Runs scenarios, at most this many in parallel, and passes on each report when it is complete.
pub fn run_all(
    scenarios: &[&'static Scenario],
    tracer: &Tracer,
    facts: Facts,
    live: bool,
    report: impl Fn(Report) + Sync,
) {
    let queue: Mutex<VecDeque<_>> = Mutex::new(scenarios.iter().copied().collect());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(scenarios.len()) {
            scope.spawn(|| {
                while let Some(scenario) = next(&queue) {
                    let before = tracer::unseen();
                    report(run(scenario, tracer, facts).judged(live, before));
                }
            });
        }
    });
}

fn next(queue: &Mutex<VecDeque<&'static Scenario>>) -> Option<&'static Scenario> {
    lock(queue).pop_front()
}

/// Runs one scenario in a fresh namespace.
pub fn run(scenario: &Scenario, tracer: &Tracer, facts: Facts) -> Report {
    let begin = Instant::now();
    let stage = Stage::new(tracer, facts);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _namespace = Namespace::create()?;
        stage.began_ns.store(sys::monotonic_ns(), Ordering::Relaxed);
        (scenario.run)(&stage)
    }));
    let verdict = match outcome {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(error)) => failed(&stage, format!("{error:#}")),
        Err(panic) => failed(&stage, panic_text(panic.as_ref())),
    };
    Report {
        name: scenario.name,
        verdict,
        took: begin.elapsed(),
        notes: std::mem::take(&mut *lock(&stage.notes)),
    }
}

/// A failure with all events of the sockets that the scenario followed.
fn failed(stage: &Stage<'_>, reason: String) -> Verdict {
    let mut details = Vec::new();
    for key in &*lock(&stage.watched) {
        let events = stage.tracer.events_of(*key);
        details.push(format!("{} events of {key:?}:", events.len()));
        details.extend(events.iter().map(Event::to_string));
    }
    Verdict::Failed { reason, details }
}

/// The message of a panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("?"))
}

/// A poisoned lock is used nevertheless: the data are append-only.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}
