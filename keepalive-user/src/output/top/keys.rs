//! The keys of the screen.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the keys are those of crossterm, and most do nothing"
)]

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::Top;
use crate::core::event::When;

/// What the caller must do for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Starts a recording, or ends it.
    Record,
    Quit,
}

pub const OF_TABLE: [(&str, &str); 7] = [
    ("↑↓", "choose"),
    ("Enter", "explain"),
    ("s", "sort"),
    ("/", "filter"),
    ("p", "pause"),
    ("r", "record"),
    ("q", "quit"),
];

pub const OF_DETAIL: [(&str, &str); 5] = [
    ("↑↓", "scroll"),
    ("Esc", "back"),
    ("p", "pause"),
    ("r", "record"),
    ("q", "quit"),
];

impl Top {
    /// Handles a key at this time.
    pub fn key(&mut self, key: KeyEvent, now: When) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Nothing;
        }
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Action::Quit,
                _ => Action::Nothing,
            };
        }
        if self.view.typing {
            self.type_filter(key.code);
            return Action::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('r') => return Action::Record,
            KeyCode::Char('p' | ' ') => self.pause(now),
            code if self.view.open.is_some() => self.scroll(code),
            KeyCode::Esc => return Action::Quit,
            KeyCode::Char('s') => self.view.sort = self.view.sort.next(),
            KeyCode::Char('/') => self.view.typing = true,
            KeyCode::Enter => self.open(),
            code => self.choose(code),
        }
        Action::Nothing
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.view.typing = false,
            KeyCode::Esc => {
                self.view.typing = false;
                self.view.filter.clear();
            }
            KeyCode::Backspace => {
                self.view.filter.pop();
            }
            KeyCode::Char(character) => self.view.filter.push(character),
            _ => {}
        }
    }

    fn pause(&mut self, now: When) {
        self.frozen = match self.frozen {
            Some(_) => None,
            None => Some((self.sockets.clone(), now)),
        };
    }

    fn scroll(&mut self, code: KeyCode) {
        let scroll = self.view.scroll;
        self.view.scroll = match code {
            KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace => {
                self.view.open = None;
                0
            }
            KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => scroll.saturating_add(1),
            KeyCode::PageUp => scroll.saturating_sub(10),
            KeyCode::PageDown => scroll.saturating_add(10),
            KeyCode::Home | KeyCode::Char('g') => 0,
            _ => scroll,
        };
    }

    /// Explains the chosen socket.
    fn open(&mut self) {
        let sockets = self.frozen.as_ref().map_or(&self.sockets, |(it, _)| it);
        let rows = self.view.shown(sockets, 1);
        let chosen = rows
            .iter()
            .find(|row| Some(row.history.socket.id) == self.view.selected);
        self.view.open = chosen.or(rows.first()).map(|row| row.history.socket.id);
    }

    /// Moves the cursor, which then follows the socket under it.
    fn choose(&mut self, code: KeyCode) {
        let sockets = self.frozen.as_ref().map_or(&self.sockets, |(it, _)| it);
        let rows = self.view.ordered(sockets, usize::MAX);
        let (cursor, page) = (self.view.cursor, self.view.page);
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => cursor.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => cursor + 1,
            KeyCode::PageUp => cursor.saturating_sub(page),
            KeyCode::PageDown => cursor + page,
            KeyCode::End | KeyCode::Char('G') => usize::MAX,
            KeyCode::Home | KeyCode::Char('g') => {
                self.view.selected = None;
                return;
            }
            _ => return,
        };
        let to = to.min(rows.len().saturating_sub(1));
        self.view.selected = rows.get(to).map(|row| row.history.socket.id);
        self.view.cursor = to;
    }
}
