//! # `keepalive trace`
//!
//! The data path as one straight line: source → tracker → attribution → output. One thread, one
//! loop; everything that can happen (records, a tick, a signal, the end of time) is one arm of
//! one `select`.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use keepalive_ebpf::Filter;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    attribution::Attribution,
    cli::Trace,
    clock::Clock,
    descriptors::Descriptor,
    event::{End, Event, Losses, Lost, LostWhere, SCHEMA_VERSION, Start, When},
    exit::{Exit, Refusal, is_broken_pipe},
    filter,
    namespace::Namespace,
    output::{Counts, Output},
    privileges,
    source::{Kernel, Options, Source, hooks::Need, iterator::Iterators},
    tracker::{Observation, Tracker},
};

/// Sockets the tracker remembers.
const CAPACITY: usize = 1 << 20;
/// How often losses are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Records gather this long after a wakeup, so that a burst costs one.
const GATHER: Duration = Duration::from_millis(10);

/// Time that listing older sockets may take at the start, beyond the namespace it is at.
const SEEDING: Duration = Duration::from_millis(500);

type Writer = Box<dyn Write>;

/// Runs a trace until it is told to stop.
pub fn run(arguments: &Trace) -> Result<Exit> {
    let options = Options {
        backend: arguments.loading.backend.backend(),
        filter: arguments
            .select
            .filter()
            .map_err(|error| Refusal::new(Exit::Usage, format!("{error:#}")))?,
        ring_bytes: arguments.loading.ring_bytes,
        live_answers: arguments.live_answers,
        verbose: arguments.verbose,
        cost: arguments.cost,
        btf: arguments.loading.btf.clone(),
    };
    // First, so that a bad path fails before anything is attached.
    let writer = open_writer(arguments)?;
    let kernel = Kernel::read(&options)?;
    let source = Source::open(&kernel, &options).map_err(name_missing_privileges)?;
    warn_of_blind_spots(&source, arguments);
    let clock = Clock::now()?;
    let start = Start {
        when: clock.when()?,
        schema_version: SCHEMA_VERSION.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel_release(),
        backend: source.backend,
        refused: source.refused.clone(),
        hz: source.learned.hz,
        clock_offset_ns: clock.offset_ns,
        keepalive_timer: kernel.resolved.keepalive_timer.to_owned(),
        ring_bytes: arguments.loading.ring_bytes.into(),
        live_answers: arguments.live_answers,
        filters: arguments.select.described(),
    };
    let mut session = Session::new(source, clock, arguments, writer);
    session.seed(Iterators::load(&kernel), &options.filter);
    drop(kernel);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match runtime.block_on(session.run(start, arguments)) {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome.map(|()| Exit::Success),
    }
}

/// A running trace.
struct Session {
    source: Source,
    tracker: Tracker,
    attribution: Attribution,
    output: Output<Writer>,
    clock: Clock,
    counts: Counts,
    /// Everything lost so far, as far as it was reported.
    lost: Losses,
    /// Stop after this many more socket events.
    remaining: Option<u64>,
    /// Only sockets of this process.
    pid: Option<u32>,
    to_stdout: bool,
}

impl Session {
    fn new(source: Source, clock: Clock, arguments: &Trace, writer: Writer) -> Self {
        let to_stdout = arguments.output.is_none();
        let colour = to_stdout
            && io::stdout().is_terminal()
            && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        Self {
            tracker: Tracker::new(source.learned.hz, clock, CAPACITY),
            attribution: Attribution::new(source.learned.same_pids),
            output: Output::new(arguments.json, colour, writer),
            counts: Counts::default(),
            lost: Losses::default(),
            remaining: arguments.count,
            pid: arguments.select.pid,
            source,
            clock,
            to_stdout,
        }
    }

    /// Learns of the sockets that are older than us, as far as the kernel lets us list them: their
    /// owners, and what they may lose before something happens to them.
    fn seed(&mut self, iterators: Result<Iterators>, filter: &Filter) {
        let begin = Instant::now();
        let mut iterators = match iterators {
            Ok(iterators) => iterators,
            Err(error) => {
                log::debug!("older sockets are not listed: {error:#}");
                self.attribution.prime(|_| Err(error));
                return;
            }
        };
        self.attribution.prime(|found| {
            let walk = iterators.descriptors()?;
            walk.each(|open| found(Descriptor::from(open)))
        });
        let namespaces =
            Namespace::all().map_or_else(|_| Vec::new(), |(all, _)| all.into_values().collect());
        for namespace in namespaces {
            // Each takes a walk over all sockets of the machine.
            if begin.elapsed() > SEEDING {
                log::debug!("older sockets of some namespaces are not listed: no time");
                break;
            }
            if filter.netns != 0 && filter.netns != namespace.inode {
                continue;
            }
            let tracker = &mut self.tracker;
            let walked = namespace.within(|| {
                iterators.sockets()?.each(|socket| {
                    if socket.id.keepopen != 0 && filter::admits(filter, &socket.id) {
                        tracker.seed(&socket.id, socket.numbers.time);
                    }
                })
            });
            if let Err(error) = walked {
                log::debug!("older sockets of namespace {}: {error:#}", namespace.inode);
            }
        }
    }

    /// The loop.
    async fn run(&mut self, start: Start, arguments: &Trace) -> Result<()> {
        // Before the first line, so that who has read it can end us in good order.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let started = start.when;
        self.output.event(&Event::Start(Box::new(start)))?;
        self.output.flush()?;
        let ring = self.source.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is the `AsyncFd`'s own and never replaced, so it stays open
        // for as long as it is registered.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .context("cannot wait for the ring buffer")?;
        if arguments.verbose {
            spawn_logger(&mut self.source)?;
        }
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = arguments.duration.map(|duration| Instant::now() + duration);
        while self.remaining != Some(0) {
            tokio::select! {
                ready = ring.readable() => {
                    // Cleared before the ring is drained: what comes meanwhile wakes us again.
                    ready?.clear_ready();
                    sleep(GATHER).await;
                    self.drain()?;
                }
                _ = tick.tick() => self.tick()?,
                () = until(deadline) => break,
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
            }
        }
        self.drain()?;
        self.finish(started)
    }

    /// Everything that is in the ring now, or as much as was asked for.
    fn drain(&mut self) -> Result<()> {
        let mut observations = Vec::new();
        while self.remaining != Some(0) {
            let Some(record) = self.source.next() else {
                break;
            };
            match record {
                Ok(record) => self.tracker.observe(&record, &mut observations),
                Err(error) => {
                    log::warn!("cannot decode {error:#}");
                    self.report_lost(LostWhere::Decode, 1)?;
                }
            }
            for observation in observations.drain(..) {
                self.emit(observation)?;
            }
        }
        self.output.flush()
    }

    /// Attributes one event and writes it, unless another process's sockets are wanted.
    fn emit(&mut self, observation: Observation) -> Result<()> {
        if self.remaining == Some(0) {
            return Ok(());
        }
        let mut event = observation.event;
        if let Some((pid, comm)) = observation.acting {
            self.attribution.learn(observation.inode, pid, &comm);
        }
        let process = self.attribution.process(observation.inode);
        if self.pid.is_some() && process.as_ref().map(|process| process.pid) != self.pid {
            return Ok(());
        }
        self.lost.owner += u64::from(process.is_none());
        if let Some(owner) = event.owner() {
            *owner.process = process;
            (*owner.cgroup, *owner.container_id) = self.attribution.cgroup(observation.cgroup);
        }
        self.counts.add(&event);
        self.remaining = self.remaining.map(|remaining| remaining - 1);
        self.output.event(&event)
    }

    fn tick(&mut self) -> Result<()> {
        self.drain()?;
        self.report_losses()?;
        if self.to_stdout && reader_has_gone() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        self.output.flush()
    }

    /// Says what was lost since it was last said.
    fn report_losses(&mut self) -> Result<()> {
        let kernel = self.source.losses()?;
        self.report_lost(LostWhere::Ring, kernel.ring - self.lost.ring)?;
        self.report_lost(LostWhere::Scratch, kernel.scratch - self.lost.scratch)?;
        self.report_lost(
            LostWhere::Unreadable,
            kernel.unreadable - self.lost.unreadable,
        )?;
        let tracker = self.tracker.evicted() + kernel.reported;
        self.report_lost(LostWhere::Tracker, tracker - self.lost.tracker)
    }

    fn report_lost(&mut self, place: LostWhere, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        *match place {
            LostWhere::Ring => &mut self.lost.ring,
            LostWhere::Decode => &mut self.lost.decode,
            LostWhere::Tracker => &mut self.lost.tracker,
            LostWhere::Scratch => &mut self.lost.scratch,
            LostWhere::Unreadable => &mut self.lost.unreadable,
        } += count;
        let when = self.clock.when()?;
        self.output.event(&Event::Lost(Lost { when, count, place }))
    }

    /// The last line.
    fn finish(&mut self, started: When) -> Result<()> {
        let mut observations = Vec::new();
        self.tracker.finish(&mut observations);
        for observation in observations {
            self.emit(observation)?;
        }
        self.report_losses()?;
        let when = self.clock.when()?;
        let end = End {
            when,
            duration_ms: when.monotonic_ns.saturating_sub(started.monotonic_ns) / 1_000_000,
            sockets: self.counts.sockets(),
            events: self.counts.events,
            decisions: self.counts.decisions.clone(),
            causes: self.counts.causes.clone(),
            lost: self.lost,
        };
        self.output.event(&Event::End(end))?;
        self.output.flush()?;
        for cost in self.source.costs().into_iter().flatten() {
            anstream::eprintln!("{cost}");
        }
        Ok(())
    }
}

/// Sleeps until the deadline, for ever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Hands the programs' diagnostics to our log as they come.
fn spawn_logger(source: &mut Source) -> Result<()> {
    // SAFETY: the logger owns its ring buffer, whose descriptor stays open until it is dropped.
    let logger = unsafe { AsyncFd::register_with_interest(source.logger()?, Interest::READABLE) };
    let mut logger = logger.context("cannot wait for the programs' diagnostics")?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

fn open_writer(arguments: &Trace) -> Result<Writer> {
    let writer: Writer = match &arguments.output {
        None => Box::new(io::stdout()),
        Some(path) => Box::new(
            File::create(path).with_context(|| format!("cannot write to {}", path.display()))?,
        ),
    };
    Ok(Box::new(BufWriter::with_capacity(1 << 16, writer)))
}

/// If we lack capabilities, that is why.
fn name_missing_privileges(error: anyhow::Error) -> anyhow::Error {
    match privileges::missing() {
        missing if missing.is_empty() => error,
        missing => {
            log::debug!("{error:#}");
            Refusal::new(Exit::NotPermitted, privileges::remedy(&missing)).into()
        }
    }
}

/// What this trace will not see, said before it starts.
fn warn_of_blind_spots(source: &Source, arguments: &Trace) {
    for refused in &source.refused {
        log::warn!(
            "the {} backend is refused ({}); using {}",
            refused.backend.name(),
            refused.reason,
            source.backend.name()
        );
    }
    for missing in &source.missing {
        if let Need::Optional(lost) = missing.hook.need {
            log::warn!(
                "not seen: {lost} ({}: {})",
                missing.hook.at.describe(),
                missing.reason
            );
        }
    }
    let offers_live = source
        .backend
        .hooks()
        .iter()
        .any(|hook| hook.need == Need::LiveAnswers);
    if arguments.live_answers && !offers_live {
        log::warn!(
            "--live-answers needs the fentry backend; answers are reported at the next timer instead"
        );
    }
}

/// Whether nobody can read our standard output any more.
fn reader_has_gone() -> bool {
    let mut poll = libc::pollfd {
        fd: libc::STDOUT_FILENO,
        events: 0,
        revents: 0,
    };
    // SAFETY: one element, which is a local.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLERR != 0
}

/// `uname -r`.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
        |_| "unknown".to_owned(),
        |release| release.trim_end().to_owned(),
    )
}
