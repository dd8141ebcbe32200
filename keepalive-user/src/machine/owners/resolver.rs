//! The resolver: a thread that searches file descriptors for the sockets that the data path requests,
//! within a budget. No other thread waits for it, not even at the end of the process.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::machine::{
    bpf::iterator::Iterators,
    clock::{cpu_time, monotonic_ns},
    descriptors::{self, Descriptor},
};

use super::{
    budget::{Budget, Nanoseconds},
    cgroups::{self, Walked},
    snapshot::DescriptorSnapshot,
};

const MILLISECOND: Nanoseconds = 1_000_000;
/// The share of one CPU (1/n) for each kind of job: 1.25 %, 0.4 % and 0.1 %. With the lookups of the data
/// path between records the sum is below 2 %.
const PASSES: u64 = 80;
const SCANS: u64 = 250;
const WALKS: u64 = 1000;
/// CPU time that short passes may take together after a pause, and short scans.
const PASS_CREDIT: Nanoseconds = 100 * MILLISECOND;
const SCAN_CREDIT: Nanoseconds = 20 * MILLISECOND;
/// The most requested sockets at a time; the next pass resolves those beyond the limit if it finds them.
const WANTS: usize = 4096;
/// How long the thread sleeps if nothing is requested.
const PAUSE: Nanoseconds = 60_000 * MILLISECOND;
/// The most descriptors of one process that a scan for a few sockets reads.
const SCANNED: usize = 4096;
/// The most results of scans that wait to be taken.
const UNTAKEN: usize = 1024;

/// A request to resolve one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The process that may hold it; it is scanned first.
    pub pid: Option<u32>,
    /// Not before, CLOCK_MONOTONIC.
    pub due: Nanoseconds,
}

/// The requested socket: one with an inode number, or one that is not accepted yet and has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    Inode(u64),
    Unaccepted(u64),
}

/// The result of a scan of one process for some sockets.
#[derive(Debug, Default)]
pub struct Scan {
    pub pid: u32,
    pub started: Nanoseconds,
    pub held: Vec<Descriptor>,
    /// Sockets that the process certainly does not hold.
    pub missing: Vec<u64>,
}

/// The results since they were last taken.
#[derive(Default)]
pub struct Answers {
    pub snapshot: Option<Arc<DescriptorSnapshot>>,
    pub scans: Vec<Scan>,
    pub walks: Vec<Walked>,
}

#[derive(Default)]
struct State {
    wants: FxHashMap<Subject, Want>,
    /// More sockets were requested than there is room for.
    overflow: bool,
    cgroups: FxHashSet<u64>,
    /// When the thread wakes by itself; 0 while it works.
    sleeps_until: Nanoseconds,
    /// When the budgets allow the next pass and the next scan.
    passes_at: Nanoseconds,
    scans_at: Nanoseconds,
    /// Whether the first pass has ended, or cannot run.
    passed: bool,
    answers: Answers,
}

#[derive(Default)]
struct Mailbox {
    state: Mutex<State>,
    asked: Condvar,
    answered: Condvar,
    has_answers: AtomicBool,
    stop: AtomicBool,
}

impl Mailbox {
    /// The lock is held only for operations on maps, never during a pass.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn publish(&self, state: &mut State) {
        let answers = &mut state.answers;
        let surplus = answers.scans.len().saturating_sub(UNTAKEN);
        answers.scans.drain(..surplus);
        self.has_answers.store(true, Ordering::Release);
        self.answered.notify_all();
    }
}

/// The data path's end.
pub struct Resolver {
    shared: Arc<Mailbox>,
}

impl Resolver {
    /// Starts the thread; its first job is a pass.
    pub fn start(iterators: Option<Arc<Mutex<Iterators>>>) -> Self {
        let shared = Arc::new(Mailbox::default());
        shared.lock().overflow = true;
        let worker = Worker {
            shared: Arc::clone(&shared),
            iterators,
            passes: Budget::new(PASSES, PASS_CREDIT),
            scans: Budget::new(SCANS, SCAN_CREDIT),
            walks: Budget::new(WALKS, 0),
            accounted: 0,
        };
        let thread = thread::Builder::new().name("owners".to_owned());
        if let Err(error) = thread.spawn(move || worker.run()) {
            log::warn!("owners are not resolved: cannot start a thread: {error}");
            shared.lock().passed = true;
        }
        Self { shared }
    }

    pub fn ask(&self, subject: Subject, want: Want) {
        let mut state = self.shared.lock();
        if state.wants.len() >= WANTS && !state.wants.contains_key(&subject) {
            state.overflow = true;
        } else {
            let known = state.wants.entry(subject).or_insert(want);
            known.due = known.due.min(want.due);
        }
        // Do not wake the thread for work that its budget does not allow yet.
        let allowed = match want.pid {
            Some(_) => state.scans_at,
            None => state.passes_at,
        };
        if want.due.max(allowed) < state.sleeps_until {
            self.shared.asked.notify_one();
        }
    }

    /// The socket has ended, or is already resolved.
    pub fn cancel(&self, subject: Subject) {
        self.shared.lock().wants.remove(&subject);
    }

    pub fn ask_cgroup(&self, id: u64) {
        let mut state = self.shared.lock();
        if state.cgroups.len() < WANTS && state.cgroups.insert(id) && state.sleeps_until != 0 {
            self.shared.asked.notify_one();
        }
    }

    /// The results since the last call; cheap if there are none.
    pub fn answers(&self) -> Option<Answers> {
        if !self.shared.has_answers.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.shared.lock();
        self.shared.has_answers.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut state.answers))
    }

    /// Waits for the first pass, but no longer than this.
    pub fn await_first_pass(&self, patience: Duration) {
        let state = self.shared.lock();
        let waited = self
            .shared
            .answered
            .wait_timeout_while(state, patience, |state| !state.passed);
        drop(waited);
    }
}

impl Drop for Resolver {
    /// Sets the thread's stop flag, and does not wait for it.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.asked.notify_all();
    }
}

enum Job {
    Pass,
    Scan { pid: u32, wanted: FxHashSet<u64> },
    Walk(FxHashSet<u64>),
}

struct Worker {
    shared: Arc<Mailbox>,
    /// `None` where the kernel's process ids are not those of /proc, or the kernel refuses the iterators.
    iterators: Option<Arc<Mutex<Iterators>>>,
    passes: Budget,
    scans: Budget,
    walks: Budget,
    /// CPU time of this thread that is paid for.
    accounted: Nanoseconds,
}

impl Worker {
    fn run(mut self) {
        while let Some(job) = self.next_job() {
            let start = monotonic_ns();
            let budget = match job {
                Job::Pass => {
                    self.pass(start);
                    &mut self.passes
                }
                Job::Scan { pid, wanted } => {
                    self.scan(pid, &wanted, start);
                    &mut self.scans
                }
                Job::Walk(ids) => {
                    self.walk(&ids);
                    &mut self.walks
                }
            };
            // The CPU time of this thread since the last accounting, including that of waiting.
            let cpu = cpu_time();
            budget.spend(start, cpu.saturating_sub(self.accounted));
            self.accounted = cpu;
        }
    }

    /// Waits for something to do that the budget allows; `None` at the end.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.shared.lock();
        loop {
            if self.shared.is_stopped() {
                return None;
            }
            let now = monotonic_ns();
            let (job, next) = self.choose(&mut state, now);
            if job.is_some() {
                state.sleeps_until = 0;
                return job;
            }
            state.sleeps_until = next;
            (state.passes_at, state.scans_at) = (self.passes.ready_at(), self.scans.ready_at());
            let pause = Duration::from_nanos(next.saturating_sub(now).max(MILLISECOND));
            state = self
                .shared
                .asked
                .wait_timeout(state, pause)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The next job, else the time of the next check.
    fn choose(&self, state: &mut State, now: Nanoseconds) -> (Option<Job>, Nanoseconds) {
        let (passes, scans) = (self.passes.ready_at(), self.scans.ready_at());
        if !state.cgroups.is_empty() && self.walks.ready_at() <= now {
            return (Some(Job::Walk(std::mem::take(&mut state.cgroups))), 0);
        }
        let mut next = now + PAUSE;
        let mut process = None;
        for want in state.wants.values() {
            let (pid, at) = match want.pid {
                Some(pid) => (Some(pid), want.due.max(scans)),
                None => (None, want.due.max(passes)),
            };
            if at > now {
                next = next.min(at);
            } else if pid.is_some() {
                process = pid;
            } else {
                return (Some(Job::Pass), 0);
            }
        }
        if let Some(pid) = process {
            let wanted = state
                .wants
                .iter()
                .filter_map(|(subject, want)| match subject {
                    Subject::Inode(inode) if want.pid == Some(pid) && want.due <= now => {
                        Some(*inode)
                    }
                    Subject::Inode(_) | Subject::Unaccepted(_) => None,
                });
            let wanted = wanted.collect();
            return (Some(Job::Scan { pid, wanted }), 0);
        }
        if state.overflow {
            if passes <= now {
                return (Some(Job::Pass), 0);
            }
            next = next.min(passes);
        }
        if !state.cgroups.is_empty() {
            next = next.min(self.walks.ready_at());
        }
        (None, next)
    }

    /// A pass answers every request that is due, whether the socket is found or not.
    fn pass(&mut self, start: Nanoseconds) {
        let mut snapshot = DescriptorSnapshot::begin(start);
        if !self.walk_kernel(&mut snapshot) {
            snapshot = DescriptorSnapshot::begin(start);
            let stopped = &self.shared.stop;
            descriptors::pass_until(stopped, |_, descriptor| snapshot.add(descriptor));
        }
        if self.shared.is_stopped() {
            return;
        }
        let snapshot = Arc::new(snapshot.finish());
        let mut state = self.shared.lock();
        state.wants.retain(|_, want| want.due > start);
        (state.overflow, state.passed) = (false, true);
        state.answers.snapshot = Some(snapshot);
        self.shared.publish(&mut state);
    }

    /// Runs the pass by the kernel's iterator; false if that is not possible.
    fn walk_kernel(&mut self, snapshot: &mut DescriptorSnapshot) -> bool {
        let Some(iterators) = &self.iterators else {
            return false;
        };
        let walk = iterators
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .descriptors();
        let walked = walk.and_then(|walk| {
            walk.batches_until(&self.shared.stop, |batch| {
                for open in batch {
                    snapshot.add(Descriptor::from(open));
                }
            })
        });
        if let Err(error) = walked {
            log::debug!("owners are resolved by /proc from now on: {error:#}");
            self.iterators = None;
            return false;
        }
        true
    }

    /// Scans one process for some sockets. Those it does not hold are left to the next pass.
    fn scan(&mut self, pid: u32, wanted: &FxHashSet<u64>, started: Nanoseconds) {
        let mut scan = Scan {
            pid,
            started,
            ..Scan::default()
        };
        let mut found = FxHashSet::default();
        let outcome = descriptors::of_process(pid, SCANNED, |descriptor| {
            if wanted.contains(&descriptor.inode) && found.insert(descriptor.inode) {
                scan.held.push(descriptor);
            }
            found.len() < wanted.len() && !self.shared.is_stopped()
        });
        let is_whole = match outcome {
            Ok(is_whole) => is_whole,
            // An ended process holds no descriptor.
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if is_whole {
            let missing = wanted.iter().filter(|inode| !found.contains(inode));
            scan.missing = missing.copied().collect();
        }
        let mut state = self.shared.lock();
        for inode in wanted {
            let subject = Subject::Inode(*inode);
            if found.contains(inode) {
                state.wants.remove(&subject);
            } else if let Some(want) = state.wants.get_mut(&subject) {
                want.pid = None;
            }
        }
        state.answers.scans.push(scan);
        self.shared.publish(&mut state);
    }

    fn walk(&mut self, ids: &FxHashSet<u64>) {
        let walked = cgroups::walk(ids, &self.shared.stop);
        let mut state = self.shared.lock();
        state.answers.walks.push(walked);
        self.shared.publish(&mut state);
    }
}
