//! Running scenarios: many at a time, each on a thread with a network namespace of its own.
//!
//! Not by a harness of others. libtest-mimic 0.8.2, the usual one, has the outcomes passed, failed and
//! ignored. A failure that is quarantined would be one of those, so that the matrix could not tell `q` from
//! `✗` or `–`; its JSON lines have neither the reason of what is ignored nor how long a scenario took, and
//! there is no place for notes (`cargo xtask test -v`). One run of it has one number of threads, but a run
//! of this suite has four parts, which are 16, 1, all and 1 at a time, around a tracer that ends between
//! them: four runs, four summaries. What it could take over is the pool and the panics: some 30 lines of
//! this file, for 1,215 of its own.

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

/// How many at a time: they mostly wait for timers.
const AT_A_TIME: usize = 16;

/// One row of the matrix.
pub struct Scenario {
    pub name: &'static str,
    pub run: fn(&Stage<'_>) -> Result<()>,
}

/// What a scenario plays on.
pub struct Stage<'t> {
    pub tracer: &'t Tracer,
    pub facts: Facts,
    /// When the scenario had its namespace, CLOCK_MONOTONIC nanoseconds.
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

    /// Watches a connected socket of this process; its events are shown if the scenario fails.
    pub fn watch(&self, socket: &Tcp) -> Result<Watch<'t>> {
        let watch = Watch::new(self.tracer, socket)?;
        self.show(watch.key);
        Ok(watch)
    }

    /// Shows the events of this socket if the scenario fails.
    pub fn show(&self, key: Key) {
        lock(&self.watched).push(key);
    }

    /// All that was told of the calling thread's namespace since the scenario began.
    pub fn told(&self) -> Result<Vec<Event>> {
        let here = Namespace::current()?.inode;
        let since = self.began_ns.load(Ordering::Relaxed);
        Ok(self.tracer.events_in(here, since))
    }

    /// A measurement to print with the result.
    pub fn note(&self, text: String) {
        lock(&self.notes).push(text);
    }

    /// Waits until a number of things to come is zero, however slowly, as long as it falls.
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
                bail!("{now} are left of {what}, and no more came for {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until something is true.
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
    /// Failed for a reason of the quarantine list.
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
    /// The same, quarantined if it failed and there is evidence for it. `before` is what had not
    /// been seen before the scenario began.
    pub fn judged(mut self, live: bool, before: Unseen) -> Self {
        if let Verdict::Failed { reason, details } = self.verdict {
            // A tracer reports what it did not see once a second.
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

/// Runs scenarios, so many at a time, and hands over each report as it comes.
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

/// A failure with everything that was seen of the sockets the scenario watched.
fn failed(stage: &Stage<'_>, reason: String) -> Verdict {
    let mut details = Vec::new();
    for key in &*lock(&stage.watched) {
        let events = stage.tracer.events_of(*key);
        details.push(format!("{} events of {key:?}:", events.len()));
        details.extend(events.iter().map(Event::to_string));
    }
    Verdict::Failed { reason, details }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("?"))
}

/// A lock whose holder died is still a lock: the data are append-only.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}
