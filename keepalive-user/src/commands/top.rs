//! # `keepalive top`
//!
//! The live screen: the events of `trace` as a table that counts down. The same session feeds a
//! model, which is drawn a few times a second and takes the keys.

use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::{Timestamp, tz::TimeZone};
use ratatui::crossterm::event::{self, Event};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep_until,
};

use crate::{
    cli::Top as Arguments,
    core::{
        event::Event as KeepaliveEvent,
        exit::{Exit, Refusal, worst},
        pipeline::Output,
        recording::Limits,
    },
    machine::{
        readiness::readable,
        recorder::Destination,
        sandbox::{Needs, OwnerLookup},
        screen::Screen,
        session::{self, Live, Older, Pace, Session, Turn},
        stop, terminal,
    },
    output::top::{Action, Top},
};

/// The screen is drawn at every tick, and after keys.
const PACE: Pace = Pace {
    tick: Duration::from_millis(250),
    gather: Duration::from_millis(100),
};
/// The minimum time between two frames.
const FRAME: Duration = Duration::from_millis(100);
/// Limits of a recording: one compressed file.
const LIMITS: Limits = Limits {
    size: None,
    files: 1,
    rate: None,
    compressed: true,
};

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(
            Refusal::new(Exit::Usage, "`top` needs a terminal: use `keepalive trace`").into(),
        );
    }
    let mut request = arguments.loading.request(&arguments.select)?;
    request.options.live_answers = arguments.live_answers;
    request.older = Older::Reported;
    request.needs = Needs::screen(OwnerLookup::Proc);
    let zone = TimeZone::system();
    let model = Top::new(terminal::wants_colour(), zone.clone());
    let top = Rc::new(RefCell::new(model));
    let outputs: Vec<Box<dyn Output>> = vec![Box::new(SharedTop(Rc::clone(&top)))];
    stop::install()?;
    let recorded = session::block_on(async {
        let session = Session::open(&request, None, outputs)?;
        let running = Running {
            live: Live::new(session, PACE)?,
            top,
            zone,
            screen: Screen::open()?,
            file: None,
            drawn: None,
            stale: true,
        };
        running.run().await
    })?;
    if let Some(path) = recorded {
        anstream::println!("{}", saved(&path));
    }
    Ok(Exit::Success)
}

/// The model, shared by the pipeline that feeds it and the screen that draws it.
struct SharedTop(Rc<RefCell<Top>>);

impl Output for SharedTop {
    fn event(&mut self, event: &KeepaliveEvent) -> Result<()> {
        self.0.borrow_mut().event(event);
        Ok(())
    }
}

/// The running screen.
struct Running {
    /// First, and so closed first: detaching from the kernel takes a while.
    screen: Screen,
    live: Live,
    top: Rc<RefCell<Top>>,
    /// The zone of the times in the names of recordings.
    zone: TimeZone,
    /// The running recording.
    file: Option<PathBuf>,
    /// The time of the last frame.
    drawn: Option<Instant>,
    /// Whether the model has changed since.
    stale: bool,
}

impl Running {
    /// The loop; returns the recording that was still running at the end.
    async fn run(mut self) -> Result<Option<PathBuf>> {
        let outcome = self.watch().await;
        let closed = self.screen.close();
        let finished = self.live.session.finish(outcome);
        worst([finished, closed])?;
        Ok(self.file)
    }

    async fn watch(&mut self) -> Result<()> {
        let keyboard = readable(io::stdin()).context("cannot wait for keys")?;
        let mut resized: Signal = signal(SignalKind::window_change())?;
        loop {
            let next = self.drawn.map_or_else(Instant::now, |drawn| drawn + FRAME);
            tokio::select! {
                // Keys first, then the screen: a flood of records must delay neither.
                biased;
                ready = keyboard.readable() => {
                    // Readiness is cleared before the keys are read: a later key wakes the loop again.
                    ready?.clear_ready();
                    if !self.keys()? {
                        return Ok(());
                    }
                }
                // Handled at once: crossterm reports it before the next key, and leaves that unread.
                _ = resized.recv() => if !self.keys()? {
                    return Ok(());
                },
                () = sleep_until(next.into()), if self.stale => self.draw()?,
                turn = self.live.turn() => match turn? {
                    Turn::Stop => return Ok(()),
                    Turn::Tick => self.stale = true,
                    Turn::Work => {}
                },
            }
        }
    }

    fn draw(&mut self) -> Result<()> {
        let now = self.live.session.now();
        let mut top = self.top.borrow_mut();
        // A frame that the terminal has not taken is drawn again.
        self.stale = !self.screen.draw(|frame| top.draw(now, frame))?;
        self.drawn = Some(Instant::now());
        Ok(())
    }

    /// Acts on the keys that were pressed; false after `q`.
    fn keys(&mut self) -> Result<bool> {
        self.stale = true;
        while event::poll(Duration::ZERO).context("cannot read keys")? {
            let Event::Key(key) = event::read().context("cannot read keys")? else {
                continue;
            };
            let now = self.live.session.now();
            let action = self.top.borrow_mut().key(key, now);
            match action {
                Action::Nothing => {}
                Action::Record => self.record()?,
                Action::Quit => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Begins a recording, as if the trace began now, or ends it.
    fn record(&mut self) -> Result<()> {
        let now = self.live.session.now();
        let clock = self.live.session.pipeline.clock().present();
        let recorder = &mut self.live.session.pipeline.recorder;
        let message = match self.file.take() {
            Some(path) => {
                if let Some(mut recorder) = recorder.take() {
                    recorder.finish(now.monotonic_ns)?;
                }
                saved(&path)
            }
            None => {
                let path = file_of(now.timestamp, &self.zone);
                let mut header = self.live.session.header.clone();
                header.start.when = now;
                header.start.clock_offset_ns = clock.offset_ns;
                let destination = Destination {
                    path: path.clone(),
                    limits: LIMITS,
                    force: false,
                };
                match destination.begin(header) {
                    Ok(begun) => {
                        *recorder = Some(begun);
                        let message = format!("recording to {}; r ends it", path.display());
                        self.file = Some(path);
                        message
                    }
                    Err(error) => format!("{error:#}"),
                }
            }
        };
        let mut top = self.top.borrow_mut();
        top.recording(self.file.is_some(), message);
        Ok(())
    }
}

fn saved(path: &std::path::Path) -> String {
    let path = path.display();
    format!("recorded to {path}: `keepalive replay {path}` replays it")
}

/// A name by the time of day.
fn file_of(now: Timestamp, zone: &TimeZone) -> PathBuf {
    let now = zone.to_datetime(now);
    let (date, time) = (now.date(), now.time());
    format!(
        "keepalive-{date}-{:02}{:02}{:02}.kar",
        time.hour(),
        time.minute(),
        time.second()
    )
    .into()
}
