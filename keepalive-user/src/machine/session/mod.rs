//! # A live session
//!
//! The kernel's side of every live command: opens the source, seeds it with older sockets, drains the ring
//! into a pipeline, and reports losses. [`Live`] decides when to drain.

mod live;
mod looks;
mod seed;
mod sysctls;

use std::{
    collections::BTreeMap,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::{ABI_VERSION, Record};

pub use self::live::{Live, Pace, Turn};
use self::{seed::Seeding, sysctls::NamespaceSysctls};
use super::{
    bpf::{
        Kernel, Options, PollResult, Source,
        hooks::{HookNeed, hooks_of},
    },
    clock::{self, monotonic_ns},
    diagnostics, files,
    owners::LiveOwners,
    privileges,
    readiness::readable,
    recorder,
    sandbox::{Confinement, Needs},
    stop,
};
use crate::core::{
    clock::{Clock, ClockWatch, Reading},
    decisions::is_counted_probe,
    event::{Lost, LostWhere, SCHEMA_VERSION, Start, When},
    exit::{Exit, Refusal, worst},
    pipeline::{Output, Pipeline, Wanted},
    recording::{Header, Recorder},
};

/// Records taken from the ring before signals and the clock are checked again.
const AT_ONCE: u32 = 32;
/// The time for records that were in the ring when the session had to stop.
const LAST: Duration = Duration::from_millis(200);
/// This many later records show that all earlier ones have arrived: those of each CPU are in order.
const LATER: u32 = 4096;
/// If a timer is this late, seconds, its socket is read.
const GRACE: u32 = 1;
/// The most sockets that are read at a time.
const POLLED_AT_ONCE: usize = 1024;
/// The time for the last reading of sockets, at the end.
const LAST_POLL: Duration = Duration::from_millis(150);

/// What a session does about sockets that are older than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// Lists them, so that their owners and what they do unseen are known from the start.
    Remembered,
    /// As [`Older::Remembered`], and reports each at once.
    Reported,
    /// Neither lists them nor resolves owners: the command knows what it follows.
    Ignored,
}

/// What to trace, and how.
pub struct Request {
    pub options: Options,
    pub wanted: Wanted,
    pub older: Older,
    /// The needs of the command once everything is attached; the sandbox drops the rest.
    pub needs: Needs,
    pub confinement: Confinement,
    /// The filters in force, by option name, for the `start` event.
    pub filters: BTreeMap<String, String>,
}

/// A loaded tracer.
pub struct Session {
    pub pipeline: Pipeline<LiveOwners>,
    /// The header of its recordings.
    pub header: Header,
    source: Source,
    seeding: Seeding,
    older: Older,
    /// Every end of a connection is reported, also without keepalive.
    all_ends: bool,
    /// When sockets may be read for answers again, CLOCK_MONOTONIC, nanoseconds.
    next_look: u64,
    clocks: ClockWatch,
    sysctls: Option<NamespaceSysctls>,
}

impl Session {
    /// Attaches to the kernel, and prints the first line.
    pub fn open(
        request: &Request,
        recording: Option<&recorder::Destination>,
        outputs: Vec<Box<dyn Output>>,
    ) -> Result<Self> {
        let options = &request.options;
        diagnostics::hold();
        stop::check()?;
        let kernel = Kernel::read(options)?;
        stop::check()?;
        let source = Source::open(&kernel, options).map_err(name_missing_privileges)?;
        stop::check()?;
        warn_of_blind_spots(&source, options);
        let reading = clock::reading();
        let start = start_event(request, &kernel, &source, reading);
        let header = Header {
            abi_version: ABI_VERSION,
            sequence: 0,
            start: start.clone(),
            pid: request.wanted.pid,
            count: request.wanted.count,
            layout: kernel.resolved.words(),
        };
        let recorder = recording
            .map(|destination| destination.begin(header.clone()))
            .transpose()?;
        let mut owners = LiveOwners::new(
            source.learned.same_pids,
            request.wanted.pid,
            source.sees_accept(),
        );
        // Its thread enters other namespaces, and ends once it has listed them; it needs the rights for that.
        let (seeding, iterators) = match request.older {
            Older::Ignored => (Seeding::none(), None),
            Older::Remembered | Older::Reported => Seeding::start(&kernel, options.filter)?,
        };
        let sysctls = NamespaceSysctls::open(options.filter.netns)
            .inspect_err(|error| log::debug!("sysctls are not polled: {error:#}"))
            .ok();
        // All threads that are started from here on inherit the restrictions of this one.
        request.confinement.enter(&request.needs);
        if request.older != Older::Ignored {
            owners.start(iterators);
        }
        diagnostics::start()?;
        let pipeline = Pipeline::start(start, owners, request.wanted, outputs, recorder)?;
        let mut session = Self {
            pipeline,
            header,
            source,
            seeding,
            older: request.older,
            all_ends: options.filter.all_ends != 0,
            next_look: 0,
            clocks: ClockWatch::new(reading),
            sysctls,
        };
        session.pipeline.expect_looks();
        if options.verbose {
            session.spawn_logger()?;
        }
        // The first change is one from the values at the start.
        session.poll_sysctls();
        session.pipeline.flush()?;
        Ok(session)
    }

    /// The present moment.
    pub fn now(&self) -> When {
        self.pipeline.clock().at(monotonic_ns())
    }

    /// The ring's descriptor, to poll.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    /// Processes the records in the ring, for at most this time; true if there may be more.
    pub fn drain(&mut self, time: Duration) -> Result<bool> {
        self.compare_clocks()?;
        let begin = Instant::now();
        let mut taken = 0_u32;
        while !self.pipeline.is_done() {
            let Some(record) = self.source.next() else {
                self.pipeline.flush()?;
                return Ok(false);
            };
            self.take(record)?;
            taken += 1;
            if taken.is_multiple_of(AT_ONCE) && (begin.elapsed() >= time || stop::is_requested()) {
                break;
            }
        }
        self.pipeline.flush()?;
        Ok(!self.pipeline.is_done())
    }

    /// As [`Session::take`]; an output that fails is closed, and the others go on.
    fn take_at_the_end(&mut self, record: Result<Record>) -> Result<()> {
        let taken = self.take(record);
        if taken.is_err() {
            self.pipeline.close_failed();
        }
        taken
    }

    /// Whether the host was suspended or its wall clock was set; compared before records are taken, so that
    /// later ones have the right time.
    fn compare_clocks(&mut self) -> Result<()> {
        if self.clocks.agrees(&clock::glance()) {
            return Ok(());
        }
        match self.clocks.observe(clock::reading()) {
            Some(change) => self.pipeline.clock_changed(&change),
            None => Ok(()),
        }
    }

    fn poll_sysctls(&mut self) {
        let polled = self
            .sysctls
            .as_ref()
            .and_then(|sysctls| Some((sysctls.netns(), sysctls.read()?)));
        if let Some((netns, (values, time))) = polled {
            self.pipeline.polled_sysctls(netns, &values, time);
        }
    }

    fn take(&mut self, record: Result<Record>) -> Result<()> {
        match record {
            Ok(record) if self.is_of_no_interest(&record) => Ok(()),
            Ok(record) => self.pipeline.record(&record),
            Err(error) => {
                log::warn!("cannot decode {error:#}");
                self.report_lost(LostWhere::Decode, 1, 0)
            }
        }
    }

    /// Processes the records that were in the ring when the session had to stop, and counts as lost those for
    /// which there is no time. Later records do not belong to this session.
    fn drain_before(&mut self, stop: u64) -> Result<()> {
        let begin = Instant::now();
        let (mut taken, mut late, mut left, mut probes) = (0_u32, 0, 0, 0);
        let mut outcome = Ok(());
        while late < LATER
            && !self.pipeline.is_done()
            && let Some(record) = self.source.next()
        {
            let is_later = matches!(&record, Ok(record) if record.after.time > stop);
            if is_later {
                late += 1;
            } else if left > 0 || (taken.is_multiple_of(AT_ONCE) && begin.elapsed() >= LAST) {
                left += 1;
                probes += u64::from(record.is_ok_and(|record| is_counted_probe(&record)));
            } else {
                outcome = worst([outcome, self.take_at_the_end(record)]);
                taken += 1;
            }
        }
        if left > 0 {
            log::warn!(
                "{left} records were still in the ring buffer {} ms after the end: they are \
                 counted as lost",
                LAST.as_millis()
            );
        }
        let counted = self.count_losses();
        let lost = self.report_lost(LostWhere::Ring, left, probes);
        worst([outcome, counted, lost])
    }

    /// Reports the losses since the last call, and reads sockets whose timers are overdue.
    pub fn report_losses(&mut self) -> Result<()> {
        self.poll_overdue()?;
        self.count_losses()
    }

    fn count_losses(&mut self) -> Result<()> {
        let kernel = self.source.losses()?;
        let reported = self.pipeline.losses();
        let evicted = self.pipeline.evicted() + kernel.reported;
        let probes = kernel.ring_probes.saturating_sub(reported.probes);
        let mut outcome = Ok(());
        for (place, now, before, probes) in [
            (LostWhere::Ring, kernel.ring, reported.ring, probes),
            (LostWhere::Scratch, kernel.scratch, reported.scratch, 0),
            (
                LostWhere::Unreadable,
                kernel.unreadable,
                reported.unreadable,
                0,
            ),
            (
                LostWhere::Recursion,
                kernel.recursion,
                reported.recursion,
                0,
            ),
            (LostWhere::Tracker, evicted, reported.tracker, 0),
        ] {
            let counted = self.report_lost(place, now.saturating_sub(before), probes);
            outcome = worst([outcome, counted]);
        }
        let dropped = self.pipeline.recorder.as_mut().map(Recorder::take_dropped);
        if let Some(trouble) = self
            .pipeline
            .recorder
            .as_mut()
            .and_then(Recorder::new_trouble)
        {
            log::warn!("{trouble}");
        }
        let unrecorded = self.report_lost(LostWhere::Recording, dropped.unwrap_or(0), 0);
        let now = self.now();
        let missed = self.pipeline.report_missed(now);
        self.poll_sysctls();
        let changed = self.pipeline.report_sysctls(now);
        worst([outcome, unrecorded, missed, changed])
    }

    /// Reads sockets for which no record came although an event must have happened.
    fn poll_overdue(&mut self) -> Result<()> {
        let now = monotonic_ns();
        let overdue: Vec<u64> = self
            .pipeline
            .overdue(now, Some(GRACE))
            .take(POLLED_AT_ONCE)
            .collect();
        self.poll(&overdue).map(drop)
    }

    /// Reads all sockets that may have had an unseen event, so that the totals are correct.
    fn poll_at_the_end(&mut self) -> Result<()> {
        if self.pipeline.is_done() {
            return Ok(());
        }
        self.look_at_all();
        let deadline = Instant::now() + LAST_POLL;
        let due: Vec<u64> = self.pipeline.overdue(monotonic_ns(), None).collect();
        let (mut unread, mut outcome) = (due.len(), Ok(()));
        for some in due.chunks(POLLED_AT_ONCE) {
            unread -= self.poll(some)?;
            while Instant::now() < deadline
                && let Some(record) = self.source.next()
            {
                outcome = worst([outcome, self.take_at_the_end(record)]);
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        worst([outcome, self.pipeline.unread(unread as u64, self.now())])
    }

    /// Has the kernel report these sockets; returns how many it reported.
    fn poll(&mut self, sockets: &[u64]) -> Result<usize> {
        for (done, &sk) in sockets.iter().enumerate() {
            match self.source.poll(sk) {
                Ok(PollResult::Reported) => {}
                Ok(PollResult::Gone) => self.pipeline.gone(sk),
                Ok(PollResult::RingFull) => return Ok(done),
                Err(error) => {
                    log::debug!("cannot read a socket: {error:#}");
                    return Ok(done);
                }
            }
        }
        Ok(sockets.len())
    }

    fn report_lost(&mut self, place: LostWhere, count: u64, probes: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.pipeline.lost(Lost {
            when: self.now(),
            count,
            place,
            probes,
        })
    }

    /// Ends the session with this outcome: finishes the recording, the report and the summary even if an
    /// output has failed.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(&mut self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            // The output cannot be written any more, or is useless without its end.
            self.pipeline.close_failed();
        }
        let polled = self.poll_at_the_end();
        if polled.is_err() {
            self.pipeline.close_failed();
        }
        let compared = self.compare_clocks();
        let drained = self.drain_before(monotonic_ns());
        let when = self.now();
        let finished = self.pipeline.finish(when);
        for cost in self.source.costs().into_iter().flatten() {
            diagnostics::line(&cost.to_string());
        }
        worst([outcome, polled, compared, drained, finished])
    }

    /// Forwards the programs' diagnostics to the log.
    fn spawn_logger(&mut self) -> Result<()> {
        let mut logger = self.source.logger()?;
        let written = readable(&logger).context("cannot wait for the programs' diagnostics")?;
        tokio::spawn(async move {
            while let Ok(mut ready) = written.readable().await {
                // Readiness is cleared before draining: a record that arrives meanwhile wakes this task again.
                ready.clear_ready();
                logger.flush();
            }
        });
        Ok(())
    }
}

/// Runs a live command on a single-threaded runtime of its own.
///
/// # Errors
/// If the runtime cannot be started, and those of the command.
pub fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    // tokio panics if it finds no descriptors for its handling of signals, beside the three of its loop.
    let spare = [UnixStream::pair(), UnixStream::pair(), UnixStream::pair()];
    for pair in spare {
        pair.context("cannot start an event loop")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an event loop")?;
    runtime.block_on(command)
}

/// The first event of the session.
fn start_event(request: &Request, kernel: &Kernel, source: &Source, clocks: Reading) -> Start {
    let options = &request.options;
    let clock = Clock {
        offset_ns: clocks.realtime_ns,
    };
    Start {
        when: clock::when(clock),
        schema_version: SCHEMA_VERSION.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: files::kernel_word("hostname"),
        kernel: files::kernel_release(),
        backend: source.backend,
        refused: source.refused.clone(),
        hz: source.learned.hz,
        clock_offset_ns: clock.offset_ns,
        keepalive_timer: kernel.resolved.keepalive_timer().to_owned(),
        ring_bytes: options.ring_bytes.into(),
        live_answers: options.live_answers,
        filters: request.filters.clone(),
    }
}

/// Replaces the error by the missing capabilities, if some are missing.
pub fn name_missing_privileges(error: anyhow::Error) -> anyhow::Error {
    match privileges::missing() {
        missing if missing.is_empty() => error,
        missing => {
            log::debug!("{error:#}");
            Refusal::new(Exit::NotPermitted, privileges::remedy(&missing)).into()
        }
    }
}

/// Warns, before the session starts, of events that it cannot see.
fn warn_of_blind_spots(source: &Source, options: &Options) {
    for refused in &source.refused {
        // The first line reports it, and `doctor`.
        log::debug!(
            "the {} backend is refused ({}); using {}",
            refused.backend.name(),
            refused.reason,
            source.backend.name()
        );
    }
    for missing in &source.missing {
        if let HookNeed::Optional(lost) = missing.hook.need {
            log::warn!(
                "not seen: {lost} ({}: {})",
                missing.hook.at.describe(),
                missing.reason
            );
        }
    }
    let offers_live = hooks_of(source.backend)
        .iter()
        .any(|hook| hook.need == HookNeed::LiveAnswers);
    if options.live_answers && !offers_live {
        log::warn!(
            "--live-answers needs the fentry backend; answers are reported within about a second instead"
        );
    }
}
