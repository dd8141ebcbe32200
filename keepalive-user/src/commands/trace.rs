//! # `keepalive trace`
//!
//! One thread, one loop ([`Live`]); what is printed is written by a thread of its own, so that no reader
//! delays it.

use std::io;

use anyhow::{Context, Result};

use super::outputs;
use crate::{
    cli::{Trace, wanted_of_trace},
    core::{
        event::Finding,
        exit::{Exit, is_broken_pipe},
    },
    machine::{
        audit::audit,
        bpf::Options,
        files,
        recorder::Destination,
        sandbox::{Needs, OwnerLookup},
        session::{self, Live, Pace, Request, Session, Turn},
        stop, terminal,
    },
};

/// Runs a trace until it has to stop.
pub fn run(arguments: &Trace) -> Result<Exit> {
    let mut request = arguments.loading.request(&arguments.select)?;
    request.options.live_answers = arguments.live_answers;
    request.options.verbose = arguments.verbose;
    request.options.cost = arguments.cost;
    request.wanted.count = arguments.count;
    request.needs = needs(arguments);
    let recording = arguments.record.destination();
    // First, so that a bad path fails before anything is attached.
    check_files(arguments, recording.as_ref())?;
    let mut outputs = vec![outputs::live(arguments.json, arguments.output.as_deref())?];
    if let Some(path) = &arguments.report {
        outputs.push(outputs::report(path, None, arguments.record.force)?);
    }
    // The audit runs before any program is attached, because its self-test creates sockets.
    let findings = if arguments.audit {
        findings(arguments, &request).context("the audit failed")?
    } else {
        Vec::new()
    };
    stop::install()?;
    let outcome = session::block_on(async {
        let mut session = Session::open(&request, recording.as_ref(), outputs)?;
        if let Some(duration) = arguments.duration {
            stop::after(duration);
        }
        let mut findings = findings.into_iter();
        match findings.try_for_each(|finding| session.pipeline.finding(finding)) {
            Ok(()) => watch(session, arguments).await,
            failed => session.finish(failed),
        }
    });
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome.map(|()| Exit::Success),
    }
}

/// Checks that every file can be written, and none twice: not the files that a recording is rotated to either.
fn check_files(arguments: &Trace, recording: Option<&Destination>) -> Result<()> {
    let mut others: Vec<_> = recording.into_iter().flat_map(Destination::names).collect();
    if let Some(report) = &arguments.report {
        files::refuse_same(report, &others)?;
        others.push(report.clone());
    }
    if let Some(output) = &arguments.output {
        files::check_output(output, &others)?;
    }
    recording.map_or(Ok(()), Destination::check)
}

/// Findings of the audit when the trace begins.
fn findings(arguments: &Trace, request: &Request) -> Result<Vec<Finding>> {
    let everywhere = arguments.select.netns.is_none();
    let (namespaces, _) = arguments.select.namespaces(everywhere)?;
    let (wanted, options) = (wanted_of_trace(arguments), &request.options);
    let options = Options {
        btf: options.btf.clone(),
        ..Options::default()
    };
    Ok(audit(&wanted, &request.options.filter, &namespaces, &options)?.0)
}

/// The needs of a trace once it is attached: a rotated recording and a report are created later.
fn needs(arguments: &Trace) -> Needs {
    let rotates = arguments.record.record_size.is_some();
    let recording = arguments.record.record.as_deref().filter(|_| rotates);
    Needs::tracing(OwnerLookup::Proc)
        .writes_beside(recording)
        .writes_beside(arguments.report.as_deref())
}

/// The loop.
async fn watch(session: Session, arguments: &Trace) -> Result<()> {
    let mut live = Live::new(session, Pace::LINES)?;
    let to_stdout = arguments.output.is_none();
    let outcome = loop {
        match live.turn().await {
            Ok(Turn::Stop) => break Ok(()),
            Ok(Turn::Tick) if to_stdout && terminal::reader_has_gone() => {
                break Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
            }
            Ok(Turn::Tick | Turn::Work) => {}
            Err(error) => break Err(error),
        }
    };
    live.session.finish(outcome)
}
