//! The live screen: sockets by urgency, with a countdown to their next timer.
//!
//! A model that receives events and keys, and draws its state at a given time. It has no clock, kernel
//! or terminal, so that a replayed recording and a live trace look the same.

mod detail;
mod keys;
mod row;
mod sockets;
mod table;
mod theme;

use std::cmp::Reverse;

use jiff::tz::TimeZone;
use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};
use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

pub use self::keys::Action;
use self::{row::Row, sockets::Sockets, theme::Theme};
use super::words::clock;
use crate::core::{
    event::{Event, When},
    format::{escape, plural},
};

/// The sockets and how they are shown.
pub struct Top {
    sockets: Sockets,
    /// The sockets that are shown while paused, and the time of the pause.
    frozen: Option<(Sockets, When)>,
    view: View,
    theme: Theme,
    zone: TimeZone,
    recording: bool,
    /// Shown instead of the keys, until the next key.
    message: Option<String>,
}

/// How the sockets are shown.
#[derive(Default)]
struct View {
    sort: Sort,
    filter: String,
    /// Keys are typed into the filter.
    typing: bool,
    /// The selected socket; `None` selects the first row.
    selected: Option<u64>,
    /// The last row of the selected socket.
    cursor: usize,
    /// The first row on the screen, and the number of rows that fit.
    first: usize,
    page: usize,
    /// The socket that is explained, and how many of its lines are scrolled past.
    open: Option<u64>,
    scroll: u16,
}

/// The key by which rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Sort {
    #[default]
    Urgency,
    #[strum(serialize = "next timer")]
    NextTimer,
    Silence,
    Attempt,
    #[strum(serialize = "round trip")]
    RoundTrip,
    Owner,
    Peer,
}

impl Sort {
    fn name(self) -> &'static str {
        self.into()
    }

    /// The next key, or the first after the last.
    fn next(self) -> Self {
        let mut all = Self::iter().cycle();
        all.find(|sort| *sort == self);
        all.next().unwrap_or_default()
    }

    /// Sorts the first `most` rows; the rest follows in any order.
    fn apply(self, rows: &mut Vec<&Row>, most: usize) {
        match self {
            Self::Urgency => order(rows, most, |row| row.urgency()),
            Self::NextTimer => order(rows, most, |row| {
                row.history.timer.map_or(u64::MAX, |timer| timer.due)
            }),
            Self::Silence => order(rows, most, |row| row.history.heard.unwrap_or(u64::MAX)),
            Self::Attempt => order(rows, most, |row| {
                Reverse(row.history.probe.map(|probe| probe.attempt))
            }),
            Self::RoundTrip => order(rows, most, |row| Reverse(row.history.latest_rtt_us())),
            Self::Owner => order(rows, most, |row| row.text()),
            Self::Peer => order(rows, most, |row| {
                (
                    row.history.socket.peer.address,
                    row.history.socket.peer.port,
                )
            }),
        }
    }
}

/// Sorts the first `most` rows by a key that is computed once per row, then by socket id.
fn order<'a, K: Ord>(rows: &mut Vec<&'a Row>, most: usize, key: impl Fn(&'a Row) -> K) {
    let mut keyed: Vec<((K, u64), &Row)> = rows
        .iter()
        .map(|row| ((key(row), row.history.socket.id), *row))
        .collect();
    let by_key = |a: &((K, u64), &Row), b: &((K, u64), &Row)| a.0.cmp(&b.0);
    if let Some(last) = most.checked_sub(1).filter(|&last| last < keyed.len()) {
        keyed.select_nth_unstable_by(last, by_key);
    }
    let first = most.min(keyed.len());
    keyed[..first].sort_unstable_by(by_key);
    rows.clear();
    rows.extend(keyed.into_iter().map(|(_, row)| row));
}

impl Top {
    pub fn new(colour: bool, zone: TimeZone) -> Self {
        Self {
            sockets: Sockets::default(),
            frozen: None,
            view: View::default(),
            theme: Theme { colour },
            zone,
            recording: false,
            message: None,
        }
    }

    /// Folds an event. It is shown at the next draw, unless the screen is paused.
    pub fn event(&mut self, event: &Event) {
        self.sockets.event(event);
    }

    /// Sets whether a recording is running, and shows a message about it.
    pub fn recording(&mut self, recording: bool, message: String) {
        self.recording = recording;
        self.message = Some(message);
    }

    /// Draws the screen.
    pub fn draw(&mut self, now: When, frame: &mut Frame<'_>) {
        if self.frozen.is_none() {
            self.sockets.forget(now.monotonic_ns, self.view.open);
        }
        let (sockets, then) = match &self.frozen {
            Some((sockets, then)) => (sockets, *then),
            None => (&self.sockets, now),
        };
        let area = frame.area();
        let rows = self.view.shown(sockets, area.height.into());
        let line = |y: u16| Rect::new(area.x, area.y + y, area.width, 1).intersection(area);
        let (head, counts, foot) = (line(0), line(1), line(area.height.saturating_sub(1)));
        let body = Rect {
            y: area.y + 2,
            height: area.height.saturating_sub(3),
            ..area
        };
        let (left, right) = self.head(sockets, then);
        ends(frame, head, left, right);
        let (left, right) = self.counts(sockets, rows.len());
        ends(frame, counts, left, right);
        let open = self.view.open.and_then(|id| sockets.rows.get(&id));
        let (theme, now) = (self.theme, then.monotonic_ns);
        if let Some(row) = open {
            let lines = detail::lines(row, then, theme, &self.zone, body.height);
            self.view.scroll = detail::draw(lines, self.view.scroll, frame, body);
        } else if rows.is_empty() {
            let text = if sockets.rows.is_empty() {
                "No socket with keepalive yet: a socket appears when its timer is set or runs."
            } else {
                "No socket matches the filter."
            };
            frame.render_widget(Line::styled(text, theme.faint()), body);
        } else {
            self.view.open = None;
            let visible = self
                .view
                .window(&rows, body.height.saturating_sub(1).into());
            let cursor = self.view.cursor - visible.start;
            let buffer = frame.buffer_mut();
            table::draw(&rows[visible], cursor, now, theme, body, buffer);
        }
        let foot_line = self.foot();
        frame.render_widget(foot_line, foot);
    }

    /// The kernel, backend and filters; whether the screen is recording or paused; the time.
    fn head(&self, sockets: &Sockets, now: When) -> (Line<'static>, Line<'static>) {
        let mut left = vec![Span::styled("keepalive top", self.theme.head())];
        if let Some(start) = &sockets.start {
            let filters: Vec<String> = start
                .filters
                .iter()
                .map(|(name, value)| format!("  {name} {value}"))
                .collect();
            let (kernel, backend) = (&start.kernel, start.backend.name());
            let text = format!("  Linux {kernel}  {backend}{}", filters.concat());
            left.push(Span::styled(escape(&text).into_owned(), self.theme.faint()));
        }
        let mut right = Vec::new();
        if self.recording {
            right.push(Span::styled("● REC  ", self.theme.bad()));
        }
        if self.frozen.is_some() {
            right.push(Span::styled("PAUSED  ", self.theme.warn()));
        }
        right.push(Span::raw(clock(now.timestamp, &self.zone)));
        (left.into(), right.into())
    }

    /// The numbers of sockets, and the sort key.
    fn counts(&self, sockets: &Sockets, shown: usize) -> (Line<'static>, Line<'static>) {
        let census = sockets.census();
        let theme = self.theme;
        let count = |number: u64, text: String, style: Style| {
            let style = if number == 0 { theme.faint() } else { style };
            Span::styled(format!("  {text}"), style)
        };
        let (out, dying) = (census.out as u64, census.dying as u64);
        let left = vec![
            Span::raw(plural(census.sockets as u64, "socket")),
            count(out, format!("{} out", plural(out, "probe")), Style::new()),
            count(dying, format!("{dying} dying"), theme.warn()),
            count(sockets.died, format!("{} died", sockets.died), theme.bad()),
            count(sockets.lost, format!("{} lost", sockets.lost), theme.bad()),
        ];
        let mut right = Vec::new();
        if !self.view.filter.is_empty() {
            let text = format!("{shown} with \"{}\"  ", escape(&self.view.filter));
            right.push(Span::styled(text, theme.warn()));
        }
        right.push(Span::raw(format!("by {}", self.view.sort.name())));
        (left.into(), right.into())
    }

    /// The filter while it is being typed, a message, or the keys.
    fn foot(&self) -> Line<'static> {
        if self.view.typing {
            let text = format!("filter: {}_", escape(&self.view.filter));
            let hint = "   owner, address, port or decision; Enter keeps it, Esc drops it";
            return vec![
                Span::styled(text, self.theme.head()),
                Span::styled(hint, self.theme.faint()),
            ]
            .into();
        }
        if let Some(message) = &self.message {
            return Line::styled(escape(message).into_owned(), self.theme.warn());
        }
        let keys: &[(&str, &str)] = if self.view.open.is_some() {
            &keys::OF_DETAIL
        } else {
            &keys::OF_TABLE
        };
        let spans = keys.iter().flat_map(|(key, what)| {
            [
                Span::styled(*key, self.theme.title()),
                Span::raw(format!(" {what}  ")),
            ]
        });
        spans.collect::<Vec<_>>().into()
    }
}

impl View {
    /// The matching rows, sorted: the first page, or all of them if a socket is selected, because it
    /// may be in any row.
    fn shown<'a>(&self, sockets: &'a Sockets, page: usize) -> Vec<&'a Row> {
        let most = if self.selected.is_none() {
            page
        } else {
            usize::MAX
        };
        self.ordered(sockets, most)
    }

    fn ordered<'a>(&self, sockets: &'a Sockets, most: usize) -> Vec<&'a Row> {
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<&Row> = sockets
            .rows
            .values()
            .map(|row| &**row)
            .filter(|row| row.mentions(&wanted))
            .collect();
        self.sort.apply(&mut rows, most);
        rows
    }

    /// Moves the cursor to the selected socket, and returns the rows around it that fit.
    fn window(&mut self, rows: &[&Row], page: usize) -> std::ops::Range<usize> {
        let last = rows.len().saturating_sub(1);
        self.cursor = match self.selected {
            None => 0,
            Some(id) => {
                let found = rows.iter().position(|row| row.history.socket.id == id);
                // If the socket has been removed, the next row is selected.
                found.unwrap_or(self.cursor).min(last)
            }
        };
        if self.selected.is_some() {
            self.selected = rows.get(self.cursor).map(|row| row.history.socket.id);
        }
        self.page = page.max(1);
        let least = (self.cursor + 1).saturating_sub(self.page);
        let most = self.cursor.min(rows.len().saturating_sub(self.page));
        self.first = self.first.clamp(least.min(most), most.max(least));
        self.first..rows.len().min(self.first + self.page)
    }
}

/// Draws a left-aligned and a right-aligned line; if both do not fit, the right one has priority.
fn ends(frame: &mut Frame<'_>, area: Rect, left: Line<'_>, right: Line<'_>) {
    let right_width = u16::try_from(right.width()).unwrap_or(area.width);
    let room = area.width.saturating_sub(right_width + 1);
    let left_area = Rect {
        width: room,
        ..area
    };
    frame.render_widget(left, left_area);
    frame.render_widget(right.right_aligned(), area);
}

#[cfg(test)]
mod tests;
