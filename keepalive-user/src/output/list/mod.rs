//! The listing as a table: a line per socket, and below it notes about the whole listing.

mod cells;
mod line;

use std::io::Write;

use anyhow::{Context, Result};
use strum::IntoEnumIterator;

use self::cells::{brief, keepalive, next_probe, owner, place, state, timers};
pub use self::line::Text;
use super::{json::json_line, words::unknown};
use crate::core::{
    event::{ListEnd, ListLine, ListSource, ListedSocket, Sysctl},
    format::{name, plural},
};

/// How a socket is shown.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    Json,
    Table(Columns),
}

/// The widths of the columns that depend on the rows, and which optional columns are shown.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    receive_queue: usize,
    send_queue: usize,
    local: usize,
    peer: usize,
    keepalive: usize,
    timers: usize,
    next_probe: usize,
    shown: Shown,
}

/// The optional columns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    pub netns: bool,
    pub owner: bool,
    /// All processes, and the cgroup or container.
    pub wide: bool,
}

impl Columns {
    pub fn new(shown: Shown) -> Self {
        let [
            _,
            receive_queue,
            send_queue,
            local,
            peer,
            keepalive,
            timers,
            next_probe,
            ..,
        ] = HEADER.map(str::len);
        Self {
            receive_queue,
            send_queue,
            local,
            peer,
            keepalive,
            timers,
            next_probe,
            shown,
        }
    }

    /// Widens the columns to fit a socket.
    pub fn fit(&mut self, socket: &ListedSocket) {
        let fit = |width: &mut usize, fill: &dyn Fn(&mut Text)| {
            let mut text = Text::default();
            fill(&mut text);
            *width = text.len().max(*width);
        };
        fit(&mut self.receive_queue, &|text| {
            text.number(socket.receive_queue.into());
        });
        fit(&mut self.send_queue, &|text| {
            text.number(socket.send_queue.into());
        });
        fit(&mut self.local, &|text| text.endpoint(&socket.socket.local));
        fit(&mut self.peer, &|text| text.endpoint(&socket.socket.peer));
        fit(&mut self.keepalive, &|text| keepalive(socket, text));
        fit(&mut self.timers, &|text| timers(socket, text));
        fit(&mut self.next_probe, &|text| next_probe(socket, text));
    }
}

const HEADER: [&str; 10] = [
    "STATE",
    "RECV-Q",
    "SEND-Q",
    "LOCAL",
    "PEER",
    "KEEPALIVE",
    "TIMERS",
    "NEXT PROBE",
    "SILENT",
    "OWNER",
];
/// Includes the gap after it.
const STATE_WIDTH: usize = 12;
const SILENT_WIDTH: usize = 6;
const NETNS_WIDTH: usize = 10;
const OWNER_WIDTH: usize = 22;
const GAP: &str = "  ";

/// Clears the terminal before the next table of `--watch`.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Writes the line above the sockets; `again` if an earlier listing was printed.
pub fn header(style: Style, again: bool, colour: bool, text: &mut Text) {
    let Style::Table(columns) = style else {
        return;
    };
    if again {
        text.push(if colour { CLEAR } else { "\n" });
    }
    let [
        state,
        recv,
        send,
        local,
        peer,
        keepalive,
        timers,
        probe,
        silent,
        owner,
    ] = HEADER;
    text.push(state);
    text.pad(text.len() - state.len(), STATE_WIDTH);
    text.right(columns.receive_queue, |text| text.push(recv));
    text.push(" ");
    text.right(columns.send_queue, |text| text.push(send));
    text.push(GAP);
    for (name, width) in [
        (local, columns.local),
        (peer, columns.peer),
        (keepalive, columns.keepalive),
        (timers, columns.timers),
        (probe, columns.next_probe),
    ] {
        cell(text, width, |text| text.push(name));
    }
    text.right(SILENT_WIDTH, |text| text.push(silent));
    if columns.shown.netns {
        text.push(GAP);
        text.right(NETNS_WIDTH, |text| text.push("NETNS"));
    }
    if columns.shown.owner {
        text.push(GAP);
        text.push(owner);
    }
    if columns.shown.wide {
        text.pad(text.len() - owner.len(), OWNER_WIDTH);
        text.push(GAP);
        text.push("CGROUP");
    }
    text.push("\n");
}

/// One socket.
pub fn socket(style: Style, socket: ListedSocket, text: &mut Text) -> Result<()> {
    match style {
        Style::Json => json_line(&ListLine::Socket(Box::new(socket)), text),
        Style::Table(columns) => {
            row(&socket, columns, text);
            Ok(())
        }
    }
}

/// Writes the lines below the sockets.
pub fn end(style: Style, end: ListEnd, writer: &mut impl Write) -> Result<()> {
    match style {
        Style::Json => json_line(&ListLine::ListEnd(end), writer),
        Style::Table(_) => footer(&end, writer).context("cannot write"),
    }
}

fn row(socket: &ListedSocket, columns: Columns, text: &mut Text) {
    let start = text.len();
    text.push(state(socket.socket.state));
    text.pad(start, STATE_WIDTH);
    text.right(columns.receive_queue, |text| {
        text.number(socket.receive_queue.into());
    });
    text.push(" ");
    text.right(columns.send_queue, |text| {
        text.number(socket.send_queue.into());
    });
    text.push(GAP);
    cell(text, columns.local, |text| {
        text.endpoint(&socket.socket.local);
    });
    cell(text, columns.peer, |text| {
        text.endpoint(&socket.socket.peer);
    });
    cell(text, columns.keepalive, |text| keepalive(socket, text));
    cell(text, columns.timers, |text| timers(socket, text));
    cell(text, columns.next_probe, |text| next_probe(socket, text));
    text.right(SILENT_WIDTH, |text| match socket.heard_ms() {
        Some(ms) => brief(ms, text),
        None => text.push("-"),
    });
    if columns.shown.netns {
        text.push(GAP);
        text.right(NETNS_WIDTH, |text| text.number(socket.socket.netns.into()));
    }
    let start = text.len() + GAP.len();
    if columns.shown.owner {
        text.push(GAP);
        owner(socket, columns.shown.wide, text);
    }
    if columns.shown.wide {
        text.pad(start, OWNER_WIDTH);
        text.push(GAP);
        place(socket, text);
    }
    if socket.socket.mptcp == Some(true) {
        text.push("  mptcp");
    }
    text.push("\n");
}

/// A cell and the gap after it.
fn cell(text: &mut Text, width: usize, fill: impl FnOnce(&mut Text)) {
    let start = text.len();
    fill(text);
    // Cells are ASCII, so that bytes are columns.
    text.pad(start, width);
    text.push(GAP);
}

fn footer(end: &ListEnd, writer: &mut impl Write) -> std::io::Result<()> {
    let note = match end.source {
        ListSource::Iterator => "",
        ListSource::SockDiag => " (+? = the kernel reports one timer, others may run)",
    };
    let sockets = plural(end.sockets, "socket");
    writeln!(writer, "\n{sockets}, from {}{note}", source(end.source))?;
    for refused in &end.refused {
        let better = source(refused.source);
        writeln!(writer, "{better} is refused: {}", refused.reason)?;
    }
    for namespace in &end.namespaces {
        write!(
            writer,
            "netns {}: {}",
            namespace.netns,
            plural(namespace.sockets, "socket")
        )?;
        match &namespace.sysctl {
            Some(sysctls) => {
                for sysctl in Sysctl::iter() {
                    write!(writer, ", {} {}", name(sysctl), sysctls.of(sysctl))?;
                }
                writeln!(writer)?;
            }
            None => writeln!(writer, ", sysctls not shown here")?,
        }
    }
    unknown(&end.incomplete, writer)
}

fn source(source: ListSource) -> &'static str {
    match source {
        ListSource::Iterator => "BPF iterator",
        ListSource::SockDiag => "sock_diag",
    }
}

#[cfg(test)]
mod tests;
