//! # The screen
//!
//! The terminal: ours from when it is opened until it is dropped, and clean after that, whatever
//! happens. Frames go through a queue: a terminal that takes none holds up nothing else.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    panic,
    rc::Rc,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        execute,
        terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use super::{
    queue::{Finished, Policy, Queue, Watcher},
    terminal,
};
use crate::core::exit::{Exit, Refusal};

/// How long the terminal is given to take what leaves it clean.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes that may wait: frames are drawn only when none do.
const LIMIT: usize = 1 << 20;

/// Frames of the screen that is open.
static FRAMES: Mutex<Option<Watcher>> = Mutex::new(None);

/// A terminal in raw mode, showing its alternate screen.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Frames>>,
    frames: Frames,
    diagnostics: log::LevelFilter,
    closed: bool,
}

impl Screen {
    /// Takes the terminal. A panic gives it back before it prints anything.
    pub fn open() -> Result<Self> {
        restore_before_panics();
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut frames = Frames::new(file);
        *FRAMES.lock().unwrap_or_else(PoisonError::into_inner) = Some(frames.watcher());
        terminal::remember();
        let terminal = enable_raw_mode()
            .and_then(|()| execute!(frames, EnterAlternateScreen))
            .and_then(|()| Terminal::new(CrosstermBackend::new(frames.clone())));
        let terminal = terminal.inspect_err(|_| terminal::restore());
        let terminal = terminal.context("cannot draw on this terminal")?;
        let diagnostics = log::max_level();
        if io::stderr().is_terminal() {
            // They would be written across the screen.
            log::set_max_level(log::LevelFilter::Off);
        }
        Ok(Self {
            terminal,
            frames,
            diagnostics,
            closed: false,
        })
    }

    /// Draws, unless the terminal has not taken the frame before; false if it has not.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<bool> {
        if !self.frames.are_written() {
            return Ok(false);
        }
        self.terminal.draw(draw).context("cannot draw")?;
        Ok(true)
    }

    /// Gives the terminal back.
    ///
    /// # Errors
    /// If it does not take what leaves it clean.
    pub fn close(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        log::set_max_level(self.diagnostics);
        let taken = self.frames.leave();
        // Both know how the terminal was.
        terminal::restore_modes();
        let restored = disable_raw_mode();
        if taken.context("cannot draw")? != Finished::Written {
            let message = "the terminal did not take the last output in time: it is abandoned; \
                           `reset` makes the terminal usable";
            return Err(Refusal::new(Exit::Failure, message).into());
        }
        restored.context("cannot restore the terminal's modes")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A panic has left already. Nowhere to complain if the terminal is gone.
        if !std::thread::panicking() {
            let _ = self.close();
        }
        self.frames.end();
    }
}

/// A panic leaves the screen before it prints its message.
fn restore_before_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // What is being drawn comes before what leaves the screen.
            if let Ok(Some(frames)) = FRAMES.try_lock().as_deref() {
                frames.wait(PATIENCE);
            }
            terminal::restore();
            print(panic);
        }));
    });
}

/// Bytes for the terminal, in the order they were drawn.
#[derive(Clone)]
struct Frames(Rc<RefCell<Inner>>);

struct Inner {
    queue: Queue,
    frame: Vec<u8>,
    ended: bool,
}

impl Frames {
    fn new(file: File) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            queue: Queue::with_limit(file, Policy::Drop, LIMIT),
            frame: Vec::new(),
            ended: false,
        })))
    }

    fn watcher(&self) -> Watcher {
        self.0.borrow().queue.watcher()
    }

    fn are_written(&self) -> bool {
        self.0.borrow().queue.is_idle()
    }

    /// The last frame: it leaves the screen.
    fn leave(&mut self) -> io::Result<Finished> {
        let mut inner = self.0.borrow_mut();
        inner.queue.force();
        inner.frame.extend_from_slice(terminal::LEAVE);
        inner.submit()?;
        inner.ended = true;
        inner.queue.finish(PATIENCE)
    }

    /// Nothing follows.
    fn end(&mut self) {
        self.0.borrow_mut().ended = true;
    }
}

impl Inner {
    fn submit(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        if !self.ended {
            self.queue.offer(&frame)?;
            self.queue.flush()?;
        }
        Ok(())
    }
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().submit()
    }
}

#[cfg(test)]
mod tests;
