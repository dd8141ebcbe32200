//! What happens while somebody looks: one socket followed to its end, or how connections like it
//! are closed.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use keepalive_ebpf::{KIND_CLOSING, Record};
use rustc_hash::FxHashMap;

use super::{
    explanation,
    find::{Finder, Found, is_same},
};
use crate::{
    arithmetic::jiffies_to_millis,
    cli::{Explain, Sandbox, Selection, Target},
    clock::{Clock, monotonic_ns},
    event::{Cause, Event, OwnerCloses, Span},
    exit::{Exit, worst},
    numbers::last_data,
    output::{self, Queued, explain},
    session,
    source::{Kernel, Options, Source, self_test::is_of_a_self_test},
    stop,
    tracker::{Observation, Tracker},
};

/// How often the ring buffer is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How often the socket itself is.
const LOOK: Duration = Duration::from_secs(1);
/// Records taken before the socket is looked at again.
const AT_ONCE: usize = 4096;
/// Sockets that are tracked at once.
const CAPACITY: usize = 1 << 16;

/// Explains a socket, and goes on until it ends or the session has to stop.
pub fn follow(target: &Target, arguments: &Explain, options: &Options) -> Result<Exit> {
    let mut finder = Finder::open(arguments, options)?;
    let first = finder.find(target)?;
    stop::install()?;
    let mut output = output::stdout_live()?;
    let outcome = follow_to(&mut output, &mut finder, &first, options, arguments.sandbox);
    worst([outcome, output.finish(output::PATIENCE)]).map(|()| Exit::Success)
}

fn follow_to(
    output: &mut Queued,
    finder: &mut Finder,
    first: &Found,
    options: &Options,
    sandbox: Sandbox,
) -> Result<()> {
    let live = Live::attach(first, true, options);
    let mut live = match live {
        Ok(live) => live,
        Err(error) => {
            output.text(|line| explain::text(&explanation(first), line))?;
            return Err(error);
        }
    };
    sandbox.enter(&finder.needs(first)?);
    // It may have ended before we watched.
    let Some(mut found) = finder.again(first)? else {
        output.text(|line| explain::text(&explanation(first), line))?;
        bail!("the socket ended while it was being explained, before it could be followed");
    };
    let mut told = explanation(&found);
    output.text(|line| explain::text(&told, line))?;
    output.flush()?;
    live.tracker
        .seed(&found.id, found.row.when.monotonic_ns, None);
    let mut looks_gone = false;
    while let Some(records) = live.records(LOOK)? {
        if live.report(&records, &found, output)? {
            return Ok(());
        }
        match finder.again(&found)? {
            Some(mut now) => {
                // One who has closed it is not its owner any more.
                now.row.process = now.row.process.or(found.row.process);
                let tells = explanation(&now);
                if explain::differs(&told, &tells) {
                    output.text(|line| explain::news(&tells, line))?;
                }
                (found, told) = (now, tells);
                looks_gone = false;
            }
            // Its certificate may be under way.
            None if !looks_gone => looks_gone = true,
            None => return output.text(|line| explain::gone(&told, line)),
        }
        output.flush()?;
    }
    Ok(())
}

/// Watches how connections to the same port are closed; `None` if the session had to stop.
pub fn watch(
    found: &Found,
    time: Duration,
    options: &Options,
    attached: &dyn Fn(),
) -> Result<Option<OwnerCloses>> {
    stop::install()?;
    let mut live = Live::attach(found, false, options)?;
    attached();
    let hz = live.source.learned.hz;
    let begin = Instant::now();
    let mut idle = FxHashMap::default();
    let mut closes = OwnerCloses {
        watched_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        closed: 0,
        idle_ms: None,
    };
    while let left = time.saturating_sub(begin.elapsed())
        && !left.is_zero()
    {
        let Some(records) = live.records(left)? else {
            return Ok(None);
        };
        for record in &records {
            if record.kind == KIND_CLOSING {
                idle.insert(record.id.sk, last_data(&record.after));
            }
            let by_owner = live.events(record).into_iter().any(|observation| {
                matches!(observation.event, Event::Closed(closed) if closed.what.cause == Cause::LocalClose)
            });
            if by_owner {
                closes.closed += 1;
                let ticks = idle.remove(&record.id.sk).flatten();
                closes.idle_ms = ticks
                    .map(|ticks| jiffies_to_millis(ticks.into(), hz))
                    .map(|ms| widened(closes.idle_ms, ms))
                    .or(closes.idle_ms);
            }
        }
    }
    Ok(Some(closes))
}

fn widened(span: Option<Span>, number: u64) -> Span {
    let span = span.unwrap_or(Span::exactly(number));
    Span {
        least: span.least.min(number),
        most: span.most.max(number),
    }
}

/// A tracer of some connections.
struct Live {
    source: Source,
    tracker: Tracker,
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Live {
    /// Of this connection alone, or of all to its service.
    fn attach(found: &Found, alone: bool, options: &Options) -> Result<Self> {
        let socket = &found.row.socket;
        let select = Selection {
            local_port: (alone || found.is_accepted).then_some(socket.local.port),
            remote_port: (alone || !found.is_accepted).then_some(socket.peer.port),
            netns: Some(socket.netns.to_string()),
            ..Selection::default()
        };
        let options = Options {
            filter: select.filter()?,
            ring_bytes: 1 << 20,
            ..options.clone()
        };
        let kernel = Kernel::read(&options)?;
        let mut source =
            Source::open(&kernel, &options).map_err(session::name_missing_privileges)?;
        let logger = options.verbose.then(|| source.logger()).transpose()?;
        Ok(Self {
            tracker: Tracker::new(source.learned.hz, Clock::now()?, CAPACITY, monotonic_ns()?),
            source,
            logger,
        })
    }

    /// What comes within this time, as soon as there is something; `None` if the session has to stop.
    fn records(&mut self, patience: Duration) -> Result<Option<Vec<Record>>> {
        let begin = Instant::now();
        loop {
            if let Some(logger) = &mut self.logger {
                logger.flush();
            }
            let mut records = Vec::new();
            while records.len() < AT_ONCE
                && let Some(record) = self.source.next()
            {
                match record {
                    Ok(record) if is_of_a_self_test(&record.id, &record.settings) => {}
                    Ok(record) => records.push(record),
                    Err(error) => log::warn!("cannot decode {error:#}"),
                }
            }
            if stop::is_requested() {
                return Ok(None);
            }
            if !records.is_empty() || begin.elapsed() >= patience {
                return Ok(Some(records));
            }
            thread::sleep(POLL);
        }
    }

    /// Prints what these records show of the socket; true if it has ended.
    fn report(&mut self, records: &[Record], found: &Found, output: &mut Queued) -> Result<bool> {
        for record in records.iter().filter(|it| is_same(&it.id, &found.id)) {
            for Observation { mut event, .. } in self.events(record) {
                if let Some(owner) = event.owner() {
                    owner.process.clone_from(&found.row.process);
                }
                output.event(&event)?;
                output.flush()?;
                if matches!(event, Event::Closed(_)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn events(&mut self, record: &Record) -> Vec<Observation> {
        let mut events = Vec::new();
        self.tracker.observe(record, &mut events);
        events
    }
}
