//! # The screen
//!
//! The terminal in raw mode: it is restored when the screen is dropped, also after a panic. Frames go
//! through a queue: a terminal that does not take them blocks nothing else.

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
        terminal::{Clear, ClearType, EnterAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

use super::{
    queue::{Finished, Policy, Queue, Watcher},
    terminal,
};
use crate::core::exit::{Exit, Refusal};

/// How long the terminal may take for the sequences that restore it.
const PATIENCE: Duration = Duration::from_millis(300);
/// The limit of the queue, bytes; a frame is drawn only when the queue is empty.
const LIMIT: usize = 1 << 20;

/// The queue of the open screen.
static FRAMES: Mutex<Option<Watcher>> = Mutex::new(None);

/// A terminal in raw mode, showing its alternate screen.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Frames>>,
    frames: Frames,
    diagnostics: log::LevelFilter,
    closed: bool,
}

impl Screen {
    /// Takes the terminal. A panic restores it before it prints its message.
    pub fn open() -> Result<Self> {
        restore_before_panics();
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut frames = Frames::new(file);
        *FRAMES.lock().unwrap_or_else(PoisonError::into_inner) = Some(frames.watcher());
        terminal::remember();
        let terminal = enable_raw_mode()
            // A terminal without an alternate screen still shows what was printed before.
            .and_then(|()| execute!(frames, EnterAlternateScreen, Clear(ClearType::All)))
            .and_then(|()| Terminal::new(CrosstermBackend::new(frames.clone())));
        let terminal = terminal.inspect_err(|_| terminal::restore());
        let terminal = terminal.context("cannot draw on this terminal")?;
        let diagnostics = log::max_level();
        if io::stderr().is_terminal() {
            // Diagnostics would overwrite the screen.
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

    /// Restores the terminal.
    ///
    /// # Errors
    /// If it does not take the sequences that restore it.
    pub fn close(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        log::set_max_level(self.diagnostics);
        let taken = self.frames.leave();
        // Both have saved the modes of the terminal.
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
        // The panic hook has restored the screen already. An error cannot be reported here.
        if !std::thread::panicking() {
            let _ = self.close();
        }
        self.frames.end();
    }
}

/// Installs a panic hook that restores the terminal before the panic's message is printed.
fn restore_before_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // The current frame is written before the sequences that leave the screen.
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

    /// Writes the last frame, which leaves the screen.
    fn leave(&mut self) -> io::Result<Finished> {
        let mut inner = self.0.borrow_mut();
        inner.queue.force();
        inner.frame.extend_from_slice(terminal::LEAVE);
        inner.submit()?;
        inner.ended = true;
        inner.queue.finish(PATIENCE)
    }

    /// Ends the queue: no frame follows.
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
