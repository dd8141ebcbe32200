//! A live session of one socket, followed until it ends.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::{Result, bail};
use jiff::tz::TimeZone;

use super::{explanation, request};
use crate::{
    core::{
        event::{Event, Explanation, MatchedEnd, Process},
        exit::{Exit, worst},
        pipeline::{MissedLines, Output},
    },
    machine::{
        bpf::Options,
        listing::find::{Finder, Located},
        queue::{PATIENCE, Queued},
        sandbox::Confinement,
        session::{self, Live, Pace, Session, Turn},
        stop, terminal,
    },
    output::{Format, explain},
};

/// Explains a socket, and follows it until it ends or the session has to stop.
pub fn follow(
    finder: &mut Finder,
    found: Located,
    matched: Option<MatchedEnd>,
    options: &Options,
    confinement: Confinement,
) -> Result<Exit> {
    stop::install()?;
    let zone = TimeZone::system();
    let format = Format::of(false, terminal::wants_colour(), zone.clone());
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
        let followed = watch_one(&mut live, &page, finder, found, matched, &zone).await;
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
    matched: Option<MatchedEnd>,
    zone: &TimeZone,
) -> Result<()> {
    // It may have ended before the session started.
    let Some(mut found) = finder.again(&found)? else {
        page.borrow_mut().explain(&explanation(&found))?;
        bail!("the socket ended while it was being explained, before it could be followed");
    };
    let mut shown = explanation(&found);
    shown.matched = matched;
    page.borrow_mut().explain(&shown)?;
    let pipeline = &mut live.session.pipeline;
    pipeline.seed(&found.id, found.row.when.monotonic_ns, None)?;
    let (mut events, mut was_missing) = (0, false);
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
                    page.lines
                        .text(|line| explain::changes(&later, zone, line))?;
                }
                (found, shown) = (now, later);
                was_missing = false;
            }
            // Its `closed` event may still be in the ring.
            None if !was_missing => was_missing = true,
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
            Event::Lost(_)
            | Event::Missed(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_) => return page.lines.event(event),
            Event::Armed(_)
            | Event::Timer(_)
            | Event::WindowProbe(_)
            | Event::SendRetry(_)
            | Event::Answer(_) => {}
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
