//! The terminal: ours from when it is opened until it is dropped, and clean after that, whatever
//! happens.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use ratatui::{DefaultTerminal, Frame};

/// A terminal in raw mode, showing its alternate screen.
pub struct Screen {
    terminal: DefaultTerminal,
    diagnostics: log::LevelFilter,
}

impl Screen {
    /// Takes the terminal. A panic gives it back before it says anything.
    pub fn open() -> Result<Self> {
        let terminal = ratatui::try_init().context("cannot draw on this terminal")?;
        let diagnostics = log::max_level();
        if io::stderr().is_terminal() {
            // They would be written across the screen.
            log::set_max_level(log::LevelFilter::Off);
        }
        Ok(Self {
            terminal,
            diagnostics,
        })
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        self.terminal.draw(draw).context("cannot draw")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        log::set_max_level(self.diagnostics);
        // A panic has left already, and once more would put the cursor onto its message.
        if !std::thread::panicking() {
            // Nowhere to complain if the terminal is gone.
            let _ = ratatui::try_restore();
        }
        // The terminal shows its cursor when it is dropped.
    }
}

#[cfg(test)]
mod tests;
