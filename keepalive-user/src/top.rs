//! # `keepalive top`
//!
//! The live screen: what `trace` tells, as a table that counts down. Records go through the same
//! pipeline, a few times a second; the model they end in is drawn, and takes the keys.

mod screen;

use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};
use jiff::{Timestamp, tz::TimeZone};
use ratatui::crossterm::event::{self, Event};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::screen::Screen;
use crate::{
    cli::{Recording, Top as Arguments},
    exit::{Exit, Refusal},
    output::{
        Output,
        top::{Action, Top},
    },
    recording::{Limits, Recorder},
    sandbox::{Needs, Owners},
    session::{Request, Session, Signals},
};

/// How often the ring is emptied and the screen drawn.
const FRAME: Duration = Duration::from_millis(250);
/// What one recording may take: nobody looks after it.
const LIMITS: Limits = Limits {
    size: None,
    files: 1,
    rate: None,
    compressed: true,
};

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Refusal::new(
            Exit::Usage,
            "`top` draws on a terminal, and this is none: use `keepalive trace`",
        )
        .into());
    }
    let mut request = Request::new(&arguments.select, &arguments.loading)?;
    request.options.live_answers = arguments.live_answers;
    request.tell_older = true;
    let colour = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let top = Rc::new(RefCell::new(Top::new(colour, TimeZone::system())));
    let outputs = vec![Output::Screen(Rc::clone(&top))];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let recorded = runtime.block_on(async {
        let signals = Signals::new()?;
        let session = Session::open(&request, &Recording::default(), outputs)?;
        let live = Live {
            session,
            top,
            screen: Screen::open()?,
            file: None,
        };
        arguments
            .loading
            .sandbox
            .enter(&Needs::screen(Owners::Proc));
        live.run(signals).await
    })?;
    if let Some(path) = recorded {
        anstream::println!("{}", saved(&path));
    }
    Ok(Exit::Success)
}

/// A screen that lives.
struct Live {
    /// First, and so given back first: to let go of the kernel takes a while.
    screen: Screen,
    session: Session,
    top: Rc<RefCell<Top>>,
    /// The recording that is being made.
    file: Option<PathBuf>,
}

impl Live {
    /// The loop; gives the recording that was still being made at the end.
    async fn run(mut self, mut signals: Signals) -> Result<Option<PathBuf>> {
        let keyboard = keyboard()?;
        let mut resized: Signal = signal(SignalKind::window_change())?;
        let mut tick = interval(FRAME);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more = false;
        loop {
            tokio::select! {
                // Signals and keys first: a flood of records must not keep us from ending.
                biased;
                _ = signals.interrupt.recv() => break,
                _ = signals.terminate.recv() => break,
                ready = keyboard.readable() => {
                    // Cleared before the keys are read: what comes meanwhile wakes us again.
                    ready?.clear_ready();
                    if !self.keys()? {
                        break;
                    }
                }
                // Taken at once: crossterm tells of it before the next key, and leaves that unread.
                _ = resized.recv() => if !self.keys()? {
                    break;
                },
                _ = tick.tick() => {
                    self.session.report_losses()?;
                    more = self.session.drain()?;
                }
                () = std::future::ready(()), if more => {
                    more = self.session.drain()?;
                    continue;
                }
            }
            self.draw()?;
        }
        self.session.drain()?;
        self.session.finish()?;
        Ok(self.file)
    }

    fn draw(&mut self) -> Result<()> {
        let now = self.session.pipeline.clock().when()?;
        let mut top = self.top.borrow_mut();
        self.screen.draw(|frame| top.draw(now, frame))
    }

    /// Does what the keys say that were pressed; false if that is to end.
    fn keys(&mut self) -> Result<bool> {
        while event::poll(Duration::ZERO).context("cannot read keys")? {
            let Event::Key(key) = event::read().context("cannot read keys")? else {
                continue;
            };
            let now = self.session.pipeline.clock().when()?;
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
        let now = self.session.pipeline.clock().when()?;
        let recorder = &mut self.session.pipeline.recorder;
        let message = match self.file.take() {
            Some(path) => {
                if let Some(mut recorder) = recorder.take() {
                    recorder.finish(now.monotonic_ns)?;
                }
                saved(&path)
            }
            None => {
                let path = file_of(now.timestamp, &TimeZone::system());
                let mut header = self.session.header.clone();
                header.start.when = now;
                match Recorder::create(&path, LIMITS, header) {
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

/// Standard input, to wait on.
fn keyboard() -> Result<AsyncFd<std::os::fd::OwnedFd>> {
    use std::os::fd::AsFd;
    let keyboard = io::stdin().as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is the `AsyncFd`'s own and never replaced, so it stays open
    // for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(keyboard, Interest::READABLE) }
        .context("cannot wait for keys")
}

fn saved(path: &std::path::Path) -> String {
    let path = path.display();
    format!("recorded to {path}: `keepalive replay {path}` tells it again")
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
