//! # `keepalive trace`
//!
//! The data path as one straight line: source → tracker → attribution → output. One thread, one
//! loop; everything that can happen (records, a tick, a signal, the end of time) is one arm of
//! one `select`.

use std::{io, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    audit,
    cli::{Audit, Trace},
    exit::{Exit, is_broken_pipe},
    output::{self, Output, Report},
    sandbox::{Needs, Owners},
    session::{Request, Session, Signals},
};

/// How often losses are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Records gather this long after a wakeup, so that a burst costs one.
const GATHER: Duration = Duration::from_millis(10);

/// Runs a trace until it is told to stop.
pub fn run(arguments: &Trace) -> Result<Exit> {
    let mut request = Request::new(&arguments.select, &arguments.loading)?;
    request.options.live_answers = arguments.live_answers;
    request.options.verbose = arguments.verbose;
    request.options.cost = arguments.cost;
    request.wanted.count = arguments.count;
    // First, so that a bad path fails before anything is attached.
    let mut outputs = vec![output::open(arguments.json, arguments.output.as_deref())?];
    if let Some(path) = &arguments.report {
        outputs.push(Output::Report(Box::new(Report::open(path, None)?)));
    }
    // Before anything is attached: it makes sockets of its own, to learn from.
    let findings = if arguments.audit {
        audit::judge(&Audit::of_trace(arguments))
            .context("the audit failed")?
            .0
    } else {
        Vec::new()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        // Before the first line, so that who has read it can end us in good order.
        let signals = Signals::new()?;
        let mut session = Session::open(&request, &arguments.record, outputs)?;
        arguments.loading.sandbox.enter(&needs(arguments));
        for finding in findings {
            session.pipeline.finding(finding)?;
        }
        session.pipeline.flush()?;
        watch(session, signals, arguments).await
    });
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome.map(|()| Exit::Success),
    }
}

/// What a trace does once it is attached: a recording that rotates and a report are files to come.
fn needs(arguments: &Trace) -> Needs {
    let rotates = arguments.record.record_size.is_some();
    let recording = arguments.record.record.as_deref().filter(|_| rotates);
    Needs::tracing(Owners::Proc)
        .writes_beside(recording)
        .writes_beside(arguments.report.as_deref())
}

/// The loop.
async fn watch(mut session: Session, mut signals: Signals, arguments: &Trace) -> Result<()> {
    let ring = session.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is the `AsyncFd`'s own and never replaced, so it stays open
    // for as long as it is registered.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .context("cannot wait for the ring buffer")?;
    if arguments.verbose {
        session.spawn_logger()?;
    }
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = arguments.duration.map(|duration| Instant::now() + duration);
    let to_stdout = arguments.output.is_none();
    let mut more = false;
    while !session.pipeline.is_done() {
        tokio::select! {
            // Signals first: a flood of records must not keep us from ending.
            biased;
            _ = signals.interrupt.recv() => break,
            _ = signals.terminate.recv() => break,
            () = until(deadline) => break,
            _ = tick.tick() => more = look_around(&mut session, to_stdout)?,
            () = std::future::ready(()), if more => more = session.drain()?,
            ready = ring.readable() => {
                // Cleared before the ring is drained: what comes meanwhile wakes us again.
                ready?.clear_ready();
                sleep(GATHER).await;
                more = session.drain()?;
            }
        }
    }
    // What is in the ring now; what comes meanwhile is not waited for.
    session.drain()?;
    session.finish()
}

/// Looks into the ring too: the ring wakes us only if we had emptied it, so that one wakeup that a
/// kernel loses (measured on a 6.18.44) would be the last. True if there may be more.
fn look_around(session: &mut Session, to_stdout: bool) -> Result<bool> {
    session.report_losses()?;
    if to_stdout && reader_has_gone() {
        return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
    }
    session.drain()
}

/// Sleeps until the deadline, for ever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
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
