//! # A live session
//!
//! The kernel's side of `trace` and `top`: opened, seeded with the sockets that are older, drained
//! into a pipeline, its losses told. When to drain is the command's own matter.

use std::{collections::BTreeMap, os::fd::BorrowedFd, time::Duration};

use anyhow::{Context, Result};
use keepalive_ebpf::{ABI_VERSION, KIND_LISTED, Record, Snapshot};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

use crate::{
    attribution::Attribution,
    cli::{Loading, Recording, Selection},
    clock::Clock,
    descriptors::Descriptor,
    event::{Lost, LostWhere, SCHEMA_VERSION, Start},
    exit::{Exit, Refusal},
    filter,
    namespace::{self, Namespace},
    numbers::state,
    output::Output,
    pipeline::{Pipeline, Sink, Wanted},
    privileges,
    recording::{Header, Recorder},
    source::{Kernel, Options, Source, hooks::Need, iterator::Iterators},
};

/// Records taken from the ring before signals and the clock are looked at again.
const AT_ONCE: u32 = 4096;
/// Time that listing older sockets may take at the start, beyond the namespace it is at.
const SEEDING: Duration = Duration::from_millis(500);

/// What to watch, and how.
pub struct Request {
    pub options: Options,
    pub wanted: Wanted,
    /// Whether older sockets are told of at once, or when something happens to them.
    pub tell_older: bool,
    /// The filters, for the `start` event.
    filters: BTreeMap<String, String>,
}

impl Request {
    /// What the command line asks for.
    ///
    /// # Errors
    /// If it names what does not exist.
    pub fn new(select: &Selection, loading: &Loading) -> Result<Self> {
        let filter = select
            .filter()
            .map_err(|error| Refusal::new(Exit::Usage, format!("{error:#}")))?;
        Ok(Self {
            options: Options {
                backend: loading.backend.backend(),
                filter,
                ring_bytes: loading.ring_bytes,
                btf: loading.btf.clone(),
                ..Options::default()
            },
            wanted: Wanted {
                pid: select.pid,
                // The programs filter already.
                ..Wanted::default()
            },
            tell_older: false,
            filters: select.described(),
        })
    }
}

/// What ends a session in good order.
pub struct Signals {
    pub interrupt: Signal,
    pub terminate: Signal,
}

impl Signals {
    pub fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// A kernel that is watched.
pub struct Session {
    pub pipeline: Pipeline,
    /// How a recording of it begins.
    pub header: Header,
    source: Source,
}

impl Session {
    /// Attaches to the kernel, and shows the first line.
    pub fn open(
        request: &Request,
        recording: &Recording,
        outputs: Vec<Output<Sink>>,
    ) -> Result<Self> {
        let options = &request.options;
        let kernel = Kernel::read(options)?;
        let source = Source::open(&kernel, options).map_err(name_missing_privileges)?;
        warn_of_blind_spots(&source, options);
        let clock = Clock::now()?;
        let start = Start {
            when: clock.when()?,
            schema_version: SCHEMA_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: kernel_word("hostname"),
            kernel: kernel_release(),
            backend: source.backend,
            refused: source.refused.clone(),
            hz: source.learned.hz,
            clock_offset_ns: clock.offset_ns,
            keepalive_timer: kernel.resolved.keepalive_timer.to_owned(),
            ring_bytes: options.ring_bytes.into(),
            live_answers: options.live_answers,
            filters: request.filters.clone(),
        };
        let header = Header {
            abi_version: ABI_VERSION,
            sequence: 0,
            start: start.clone(),
            pid: request.wanted.pid,
            count: request.wanted.count,
            layout: kernel.resolved.words(),
        };
        let recorder = recording.create(|| header.clone()).transpose()?;
        let attribution = Attribution::new(source.learned.same_pids);
        let pipeline = Pipeline::start(start, attribution, request.wanted, outputs, recorder)?;
        let mut session = Self {
            pipeline,
            header,
            source,
        };
        session.seed(Iterators::load(&kernel), request)?;
        session.pipeline.flush()?;
        Ok(session)
    }

    /// Learns of the sockets that are older than us, as far as the kernel lets us list them: their
    /// owners, and what they may lose before something happens to them.
    fn seed(&mut self, iterators: Result<Iterators>, request: &Request) -> Result<()> {
        let begin = Instant::now();
        let filter = &request.options.filter;
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
                if !namespace::may_have_tcp() {
                    return Ok(());
                }
                iterators.sockets()?.each(|socket| {
                    let is_wanted = socket.id.keepopen != 0
                        && socket.id.state != state::LISTEN
                        && filter::admits(filter, &socket.id);
                    if is_wanted {
                        found.push(*socket);
                    }
                })
            });
            if let Err(error) = walked {
                log::debug!("older sockets of namespace {}: {error:#}", namespace.inode);
            }
            for socket in &found {
                if request.tell_older {
                    self.pipeline.record(&listed(socket))?;
                } else {
                    self.pipeline.seed(&socket.id, socket.numbers.time)?;
                }
            }
        }
        Ok(())
    }

    /// The ring, to wait on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    /// What is in the ring, or as much as is good at once; true if there may be more.
    pub fn drain(&mut self) -> Result<bool> {
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

    /// Says what was lost since it was last said.
    pub fn report_losses(&mut self) -> Result<()> {
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
    pub fn finish(&mut self) -> Result<()> {
        self.report_losses()?;
        let when = self.pipeline.clock().when()?;
        self.pipeline.finish(when)?;
        for cost in self.source.costs().into_iter().flatten() {
            anstream::eprintln!("{cost}");
        }
        Ok(())
    }

    /// Hands the programs' diagnostics to our log as they come.
    pub fn spawn_logger(&mut self) -> Result<()> {
        let logger = self.source.logger()?;
        // SAFETY: the logger owns its ring buffer, whose descriptor stays open until it is dropped.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = logger.context("cannot wait for the programs' diagnostics")?;
        tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
        Ok(())
    }
}

/// The record of a socket to which nothing has happened yet.
fn listed(socket: &Snapshot) -> Record {
    Record {
        kind: KIND_LISTED,
        id: socket.id,
        settings: socket.settings,
        after: socket.numbers,
        ..Record::default()
    }
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

/// What this session will not see, said before it starts.
fn warn_of_blind_spots(source: &Source, options: &Options) {
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
    if options.live_answers && !offers_live {
        log::warn!(
            "--live-answers needs the fentry backend; answers are reported at the next timer instead"
        );
    }
}

/// `uname -r`.
pub fn kernel_release() -> String {
    kernel_word("osrelease").unwrap_or_else(|| "unknown".to_owned())
}

/// One of the words of `uname`.
fn kernel_word(name: &str) -> Option<String> {
    let word = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
    Some(word.trim_end().to_owned())
}
