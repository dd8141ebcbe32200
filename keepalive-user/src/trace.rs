//! # `keepalive trace`
//!
//! The data path as one straight line: source → tracker → attribution → output. One thread, one
//! loop; everything that can happen (records, a tick, a signal, the end of time) is one arm of
//! one `select`.

use std::{io, time::Duration};

use anyhow::{Context, Result};
use keepalive_ebpf::{ABI_VERSION, Filter};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    attribution::Attribution,
    cli::Trace,
    clock::Clock,
    descriptors::Descriptor,
    event::{Lost, LostWhere, SCHEMA_VERSION, Start},
    exit::{Exit, Refusal, is_broken_pipe},
    filter,
    namespace::Namespace,
    numbers::state,
    output,
    pipeline::{Pipeline, Wanted},
    privileges,
    recording::{Header, Recorder},
    source::{Kernel, Options, Source, hooks::Need, iterator::Iterators},
};

/// How often losses are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Records gather this long after a wakeup, so that a burst costs one.
const GATHER: Duration = Duration::from_millis(10);

/// Records taken from the ring before signals and the clock are looked at again.
const AT_ONCE: u32 = 4096;
/// Time that listing older sockets may take at the start, beyond the namespace it is at.
const SEEDING: Duration = Duration::from_millis(500);

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
    let outputs = vec![output::open(arguments.json, arguments.output.as_deref())?];
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
    let wanted = Wanted {
        pid: arguments.select.pid,
        count: arguments.count,
        // The programs did that already.
        filter: Filter::default(),
    };
    let recorder = arguments
        .record
        .create(|| Header {
            abi_version: ABI_VERSION,
            sequence: 0,
            start: start.clone(),
            pid: wanted.pid,
            count: wanted.count,
            layout: kernel.resolved.words(),
        })
        .transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        // Before the first line, so that who has read it can end us in good order.
        let signals = Signals::new()?;
        let attribution = Attribution::new(source.learned.same_pids);
        let mut session = Session {
            source,
            pipeline: Pipeline::start(start, attribution, wanted, outputs, recorder)?,
            to_stdout: arguments.output.is_none(),
        };
        session.seed(Iterators::load(&kernel), &options.filter)?;
        session.pipeline.flush()?;
        drop(kernel);
        session.run(signals, arguments).await
    });
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome.map(|()| Exit::Success),
    }
}

/// What ends a trace in good order.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// A running trace.
struct Session {
    source: Source,
    pipeline: Pipeline,
    to_stdout: bool,
}

impl Session {
    /// Learns of the sockets that are older than us, as far as the kernel lets us list them: their
    /// owners, and what they may lose before something happens to them.
    fn seed(&mut self, iterators: Result<Iterators>, filter: &Filter) -> Result<()> {
        let begin = Instant::now();
        let attribution = &mut self.pipeline.attribution;
        let mut iterators = match iterators {
            Ok(iterators) => iterators,
            Err(error) => {
                log::debug!("older sockets are not listed: {error:#}");
                attribution.prime(|_| Err(error));
                return Ok(());
            }
        };
        attribution.prime(|found| {
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
            let mut found = Vec::new();
            let walked = namespace.within(|| {
                iterators.sockets()?.each(|socket| {
                    let is_wanted = socket.id.keepopen != 0
                        && socket.id.state != state::LISTEN
                        && filter::admits(filter, &socket.id);
                    if is_wanted {
                        found.push((socket.id, socket.numbers.time));
                    }
                })
            });
            if let Err(error) = walked {
                log::debug!("older sockets of namespace {}: {error:#}", namespace.inode);
            }
            for (id, time) in &found {
                self.pipeline.seed(id, *time)?;
            }
        }
        Ok(())
    }

    /// The loop.
    async fn run(&mut self, mut signals: Signals, arguments: &Trace) -> Result<()> {
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
        let mut more = false;
        while !self.pipeline.is_done() {
            tokio::select! {
                // Signals first: a flood of records must not keep us from ending.
                biased;
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                () = until(deadline) => break,
                _ = tick.tick() => self.tick()?,
                () = std::future::ready(()), if more => more = self.drain()?,
                ready = ring.readable() => {
                    // Cleared before the ring is drained: what comes meanwhile wakes us again.
                    ready?.clear_ready();
                    sleep(GATHER).await;
                    more = self.drain()?;
                }
            }
        }
        // What is in the ring now; what comes meanwhile is not waited for.
        self.drain()?;
        self.finish()
    }

    /// What is in the ring, or as much as is good at once; true if there may be more.
    fn drain(&mut self) -> Result<bool> {
        for _ in 0..AT_ONCE {
            let record = if self.pipeline.is_done() {
                None
            } else {
                self.source.next()
            };
            match record {
                None => {
                    self.pipeline.flush()?;
                    return Ok(false);
                }
                Some(Ok(record)) => self.pipeline.record(&record)?,
                Some(Err(error)) => {
                    log::warn!("cannot decode {error:#}");
                    self.report_lost(LostWhere::Decode, 1)?;
                }
            }
        }
        self.pipeline.flush()?;
        Ok(true)
    }

    fn tick(&mut self) -> Result<()> {
        self.report_losses()?;
        if self.to_stdout && reader_has_gone() {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        self.pipeline.flush()
    }

    /// Says what was lost since it was last said.
    fn report_losses(&mut self) -> Result<()> {
        let kernel = self.source.losses()?;
        let said = self.pipeline.losses();
        let evicted = self.pipeline.evicted() + kernel.reported;
        for (place, now, before) in [
            (LostWhere::Ring, kernel.ring, said.ring),
            (LostWhere::Scratch, kernel.scratch, said.scratch),
            (LostWhere::Unreadable, kernel.unreadable, said.unreadable),
            (LostWhere::Tracker, evicted, said.tracker),
        ] {
            self.report_lost(place, now.saturating_sub(before))?;
        }
        let dropped = self.pipeline.recorder.as_mut().map(Recorder::take_dropped);
        self.report_lost(LostWhere::Recording, dropped.unwrap_or(0))
    }

    fn report_lost(&mut self, place: LostWhere, count: u64) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let when = self.pipeline.clock().when()?;
        self.pipeline.lost(Lost { when, count, place })
    }

    /// The last line.
    fn finish(&mut self) -> Result<()> {
        self.report_losses()?;
        let when = self.pipeline.clock().when()?;
        self.pipeline.finish(when)?;
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

/// If we lack capabilities, that is why.
pub fn name_missing_privileges(error: anyhow::Error) -> anyhow::Error {
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
