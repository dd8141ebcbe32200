//! A live session of one socket, followed until it ends, or of the connections of one service, to see
//! how these are closed.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, timeout_at};

use super::explanation;
use crate::{
    cli::Selection,
    core::{
        event::{Cause, Event, Explanation, OwnerCloses, Process, Span},
        exit::{Exit, Interrupted, worst},
        pipeline::{MissedLines, Output, Wanted},
    },
    machine::{
        bpf::Options,
        listing::find::{Finder, Located},
        queue::{PATIENCE, Queued},
        sandbox::Confinement,
        session::{self, Live, Older, Pace, Request, Session, Turn},
        stop, terminal,
    },
    output::{Format, explain},
};

/// Explains a socket, and follows it until it ends or the session has to stop.
pub fn follow(
    finder: &mut Finder,
    found: Located,
    options: &Options,
    confinement: Confinement,
) -> Result<Exit> {
    stop::install()?;
    let format = Format::of(false, terminal::wants_colour());
    let page = Rc::new(RefCell::new(Page {
        lines: Queued::stdout(Box::new(format))?,
        owner: found.row.process.clone(),
        events: 0,
        has_ended: false,
    }));
    let mut request = request(&found, true, options, confinement)?;
    request.needs = finder.needs(&found)?;
    request.wanted.only = Some(found.id);
    let outcome = session::block_on(async {
        let outputs: Vec<Box<dyn Output>> = vec![Box::new(SharedPage(Rc::clone(&page)))];
        let session = match Session::open(&request, None, outputs) {
            Ok(session) => session,
            Err(error) => {
                page.borrow_mut().explain(&explanation(&found))?;
                return Err(error);
            }
        };
        let mut live = Live::new(session, Pace::LINES)?;
        let followed = watch_one(&mut live, &page, finder, found).await;
        live.session.finish(followed)
    });
    let finished = page.borrow_mut().lines.finish(PATIENCE);
    worst([outcome, finished]).map(|()| Exit::Success)
}

/// Prints the events of the socket, and changes of its state.
async fn watch_one(
    live: &mut Live,
    page: &RefCell<Page>,
    finder: &mut Finder,
    found: Located,
) -> Result<()> {
    // It may have ended before the session started.
    let Some(mut found) = finder.again(&found)? else {
        page.borrow_mut().explain(&explanation(&found))?;
        bail!("the socket ended while it was being explained, before it could be followed");
    };
    let mut shown = explanation(&found);
    page.borrow_mut().explain(&shown)?;
    let pipeline = &mut live.session.pipeline;
    pipeline.seed(&found.id, found.row.when.monotonic_ns, None)?;
    let (mut events, mut looks_gone) = (0, false);
    loop {
        let turn = live.turn().await?;
        let mut page = page.borrow_mut();
        if turn == Turn::Stop || page.has_ended {
            return Ok(());
        }
        if turn == Turn::Work && page.events == events {
            continue;
        }
        events = page.events;
        match finder.again(&found)? {
            Some(mut now) => {
                // A process that has closed it no longer owns it.
                now.row.process = now.row.process.or(found.row.process);
                page.owner.clone_from(&now.row.process);
                let later = explanation(&now);
                if explain::differs(&shown, &later) {
                    page.lines.text(|line| explain::changes(&later, line))?;
                }
                (found, shown) = (now, later);
                looks_gone = false;
            }
            // Its `closed` event may still be in the ring.
            None if !looks_gone => looks_gone = true,
            None => return page.lines.text(|line| explain::gone(&shown, line)),
        }
        page.lines.flush()?;
    }
}

/// The output for a followed socket.
struct Page {
    lines: Queued,
    /// Its owner, as last listed.
    owner: Option<std::sync::Arc<Process>>,
    /// Its events so far.
    events: u64,
    has_ended: bool,
}

impl Page {
    fn explain(&mut self, explanation: &Explanation) -> Result<()> {
        self.lines.text(|line| explain::text(explanation, line))?;
        self.lines.flush()
    }
}

/// The page, shared by the pipeline that feeds it and the loop that reads the socket.
struct SharedPage(Rc<RefCell<Page>>);

impl Output for SharedPage {
    fn event(&mut self, event: &Event) -> Result<()> {
        let mut page = self.0.borrow_mut();
        match event {
            Event::Start(_) | Event::Finding(_) | Event::End(_) => return Ok(()),
            Event::Lost(_) | Event::Missed(_) => return page.lines.event(event),
            Event::Armed(_) | Event::Timer(_) | Event::WindowProbe(_) | Event::Answer(_) => {}
            Event::Closed(_) => page.has_ended = true,
        }
        page.events += 1;
        let mut event = event.clone();
        if let Some(owner) = event.owner() {
            owner.process.clone_from(&page.owner);
        }
        page.lines.event(&event)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.borrow_mut().lines.flush()
    }

    fn take_missed(&mut self) -> MissedLines {
        self.0.borrow_mut().lines.take_missed()
    }

    fn has_failed(&self) -> bool {
        self.0.borrow().lines.has_failed()
    }

    fn settle(&mut self, patience: Duration) -> Result<()> {
        self.0.borrow_mut().lines.settle(patience)
    }

    // The loop ends the page.
    fn finish(&mut self, _: Duration) -> Result<()> {
        Ok(())
    }
}

/// Watches how connections to the same port are closed; `None` if the session had to stop.
pub fn watch(
    finder: &Finder,
    found: &Located,
    time: Duration,
    options: &Options,
    confinement: Confinement,
) -> Result<Option<OwnerCloses>> {
    stop::install()?;
    let mut request = request(found, false, options, confinement)?;
    request.needs = finder.needs(found)?;
    let closes = Rc::new(RefCell::new(OwnerCloses {
        watched_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        closed: 0,
        idle_ms: None,
    }));
    let is_whole = session::block_on(async {
        let outputs: Vec<Box<dyn Output>> = vec![Box::new(Closes(Rc::clone(&closes)))];
        let session = match Session::open(&request, None, outputs) {
            Ok(session) => session,
            Err(error) if error.is::<Interrupted>() => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut live = Live::new(session, Pace::LINES)?;
        let end = Instant::now() + time;
        let outcome = loop {
            match timeout_at(end, live.turn()).await {
                Err(_) => break Ok(true),
                Ok(Ok(Turn::Stop)) => break Ok(false),
                Ok(Ok(Turn::Tick | Turn::Work)) => {}
                Ok(Err(error)) => break Err(error),
            }
        };
        let (is_whole, outcome) = match outcome {
            Ok(is_whole) => (is_whole, Ok(())),
            Err(error) => (false, Err(error)),
        };
        live.session.finish(outcome).map(|()| is_whole)
    })?;
    let closes = *closes.borrow();
    Ok(is_whole.then_some(closes))
}

/// How this side closes connections.
struct Closes(Rc<RefCell<OwnerCloses>>);

impl Output for Closes {
    fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Lost(lost) => log::warn!(
                "{} observations were lost: connections that were closed then are not counted",
                lost.count
            ),
            Event::Missed(missed) => log::warn!(
                "{} events were missed: connections that were closed then may not be counted",
                missed.count
            ),
            Event::Closed(closed) if closed.what.cause == Cause::LocalClose => {
                let mut closes = self.0.borrow_mut();
                closes.closed += 1;
                if let Some(ms) = closed.what.last_data_ms {
                    let span = closes.idle_ms.unwrap_or(Span::exactly(ms));
                    closes.idle_ms = Some(Span {
                        least: span.least.min(ms),
                        most: span.most.max(ms),
                    });
                }
            }
            Event::Start(_)
            | Event::Armed(_)
            | Event::Timer(_)
            | Event::WindowProbe(_)
            | Event::Answer(_)
            | Event::Closed(_)
            | Event::Finding(_)
            | Event::End(_) => {}
        }
        Ok(())
    }
}

/// A session of this connection alone, or of all to its service.
fn request(
    found: &Located,
    alone: bool,
    options: &Options,
    confinement: Confinement,
) -> Result<Request> {
    let socket = &found.row.socket;
    let select = Selection {
        local_port: (alone || found.is_accepted).then_some(socket.local.port),
        remote_port: (alone || !found.is_accepted).then_some(socket.peer.port),
        netns: Some(socket.netns.to_string()),
        ..Selection::default()
    };
    Ok(Request {
        options: Options {
            filter: select.filter()?,
            ring_bytes: 1 << 20,
            ..options.clone()
        },
        wanted: Wanted::default(),
        older: Older::Ignored,
        needs: Default::default(),
        confinement,
        filters: select.described(),
    })
}
