//! A live session of the connections of one service, to see how these are closed.

use std::{cell::RefCell, rc::Rc, time::Duration};

use anyhow::Result;
use tokio::time::{Instant, timeout_at};

use super::request;
use crate::{
    core::{event::Event, exit::Interrupted, ledger::Closes, pipeline::Output},
    machine::{
        bpf::Options,
        listing::find::{Finder, Located},
        sandbox::Confinement,
        session::{self, Live, Pace, Session, Turn},
        stop,
    },
};

/// Watches how connections to the same port are closed; `None` if the session had to stop.
pub fn watch(
    finder: &Finder,
    found: &Located,
    time: Duration,
    options: &Options,
    confinement: Confinement,
) -> Result<Option<Closes>> {
    stop::install()?;
    let mut request = request(found, false, options, confinement)?;
    request.needs = finder.needs(found)?;
    let closes = Rc::new(RefCell::new(Closes::within(time)));
    let is_whole = session::block_on(async {
        let outputs: Vec<Box<dyn Output>> = vec![Box::new(Counter(Rc::clone(&closes)))];
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

/// How either side closes connections.
struct Counter(Rc<RefCell<Closes>>);

impl Output for Counter {
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
            Event::Closed(closed) => self.0.borrow_mut().add(&closed.what),
            Event::Start(_)
            | Event::Armed(_)
            | Event::Timer(_)
            | Event::WindowProbe(_)
            | Event::SendRetry(_)
            | Event::Answer(_)
            | Event::Finding(_)
            | Event::Suspend(_)
            | Event::ClockStep(_)
            | Event::Sysctl(_)
            | Event::End(_) => {}
        }
        Ok(())
    }
}
