//! The styles, with and without colour.

use anstyle::{AnsiColor, Color as Ansi, Effects};
use ratatui::style::{Color, Modifier, Style};

use super::row::{DYING, Row};

/// Whether to use colours (NO_COLOR); no information is in colours only.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colour: bool,
}

impl Theme {
    fn of(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    pub fn head(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub fn title(self) -> Style {
        self.of(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub fn good(self) -> Style {
        self.of(Color::Green)
    }

    pub fn warn(self) -> Style {
        self.of(Color::Yellow)
    }

    pub fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The style for the state of a socket.
    pub fn mood(self, row: &Row) -> Style {
        match (row.history.cause(), row.history.probe) {
            (Some(cause), _) if cause.meaning().is_violent() => self.bad(),
            (Some(_), _) => self.faint(),
            (None, Some(probe)) if probe.of.is_some_and(|of| probe.attempt >= of.max(2)) => {
                self.bad()
            }
            (None, Some(_)) if row.urgency().0 == DYING => self.warn(),
            (None, Some(_)) => Style::new(),
            (None, None) => self.faint(),
        }
    }

    /// The style of a sentence.
    pub fn sentence(self, style: anstyle::Style) -> Style {
        let base = match style.get_fg_color() {
            Some(Ansi::Ansi(AnsiColor::Red)) => self.of(Color::Red),
            Some(Ansi::Ansi(AnsiColor::Yellow)) => self.of(Color::Yellow),
            Some(Ansi::Ansi(AnsiColor::Green)) => self.of(Color::Green),
            Some(Ansi::Ansi(AnsiColor::Cyan)) => self.of(Color::Cyan),
            _ => Style::new(),
        };
        let effects = style.get_effects();
        let modifier = |effect, modifier| {
            if effects.contains(effect) {
                modifier
            } else {
                Modifier::empty()
            }
        };
        base.add_modifier(modifier(Effects::BOLD, Modifier::BOLD))
            .add_modifier(modifier(Effects::DIMMED, Modifier::DIM))
    }
}
