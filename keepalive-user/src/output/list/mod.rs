//! The listing as a table: a line per socket, and below it notes about the whole listing.

mod line;

use std::io::Write;

use anyhow::{Context, Result};

pub use self::line::Text;
use super::json_line;
use crate::core::{
    event::{
        Blocker, Keepalive, ListEnd, ListLine, ListSource, ListedSocket, NextProbe, Origin,
        RunningTimer, TcpState, TimerKind,
    },
    format::{Brief, escape, plural},
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
        let [_, _, _, local, peer, keepalive, timers, next_probe, ..] = HEADER.map(str::len);
        Self {
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
const QUEUE_WIDTH: usize = 6;
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
    text.right(QUEUE_WIDTH, |text| text.push(recv));
    text.push(" ");
    text.right(QUEUE_WIDTH, |text| text.push(send));
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
    text.right(QUEUE_WIDTH, |text| {
        text.number(socket.receive_queue.into());
    });
    text.push(" ");
    text.right(QUEUE_WIDTH, |text| text.number(socket.send_queue.into()));
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
    text.right(SILENT_WIDTH, |text| match socket.silence_ms {
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

/// `sshd/1036`, `sshd/1036 +2` or all of them; `?` if unknown.
fn owner(socket: &ListedSocket, all: bool, text: &mut Text) {
    let Some(process) = &socket.process else {
        text.push(match socket.inode {
            _ if socket.orphan => "(orphan)",
            Some(_) => "?",
            None => "-",
        });
        return;
    };
    text.push(&escape(&process.comm));
    text.push("/");
    text.number(process.pid.into());
    let others = socket.pids.iter().filter(|&&pid| pid != process.pid);
    if all {
        for &pid in others {
            text.push(",");
            text.number(pid.into());
        }
    } else if socket.pids.len() > 1 {
        text.push(" +");
        text.number(others.count() as u64);
    }
}

/// The container, else the path of the cgroup, else its number.
fn place(socket: &ListedSocket, text: &mut Text) {
    match (&socket.container_id, &socket.cgroup) {
        (Some(id), _) => {
            text.push("container ");
            // Container runtimes abbreviate the id to 12 digits.
            text.push(id.get(..12).unwrap_or(id));
        }
        (None, Some(cgroup)) => match &cgroup.path {
            Some(path) => text.push(&escape(path)),
            None => text.number(cgroup.id),
        },
        (None, None) => text.push("-"),
    }
}

/// The names that netstat prints.
fn state(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "ESTABLISHED",
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynRecv | TcpState::NewSynRecv => "SYN_RECV",
        TcpState::FinWait1 => "FIN_WAIT1",
        TcpState::FinWait2 => "FIN_WAIT2",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSE",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
        TcpState::BoundInactive => "BOUND",
        TcpState::Unknown => "UNKNOWN",
    }
}

/// `7200/75/9`, seconds; `*` after what is set on the socket; `off`; `?` if unknown.
fn keepalive(socket: &ListedSocket, text: &mut Text) {
    let Some(keepalive) = &socket.keepalive else {
        return text.push(if has_keepalive(socket) { "?" } else { "-" });
    };
    if keepalive.enabled {
        settings(keepalive, text);
    } else {
        text.push("off");
    }
    if keepalive.user_timeout_ms > 0 {
        text.push(" ut ");
        // No sysctl sets TCP_USER_TIMEOUT.
        seconds(keepalive.user_timeout_ms, Some(Origin::Socket), text);
    }
}

/// Whether the socket has settings: `request_sock` and `inet_timewait_sock`, which also holds orphans
/// in FIN_WAIT2, have none.
fn has_keepalive(socket: &ListedSocket) -> bool {
    !matches!(
        socket.socket.state,
        TcpState::TimeWait | TcpState::SynRecv | TcpState::NewSynRecv
    ) && !socket
        .timers
        .iter()
        .any(|timer| timer.kind == TimerKind::FinWait2)
}

fn settings(keepalive: &Keepalive, text: &mut Text) {
    seconds(keepalive.time_ms, keepalive.time_origin, text);
    text.push("/");
    seconds(keepalive.interval_ms, keepalive.interval_origin, text);
    text.push("/");
    text.number(keepalive.probes.into());
    mark(keepalive.probes_origin, text);
}

fn seconds(ms: u64, origin: Option<Origin>, text: &mut Text) {
    text.number(ms / 1000);
    if !ms.is_multiple_of(1000) {
        text.push(".");
        text.thousandths(ms % 1000);
    }
    mark(origin, text);
}

fn mark(origin: Option<Origin>, text: &mut Text) {
    if origin == Some(Origin::Socket) {
        text.push("*");
    }
}

fn timers(socket: &ListedSocket, text: &mut Text) {
    if socket.timers.is_empty() {
        return text.push("-");
    }
    for (index, timer) in socket.timers.iter().enumerate() {
        if index > 0 {
            text.push(", ");
        }
        text.push(timer_name(timer.kind));
        text.push(" ");
        brief(timer.in_ms, text);
        if timer.retries > 0 {
            text.push(" #");
            text.number(timer.retries.into());
        }
    }
    if may_hide(socket.one_timer_only, &socket.timers) {
        text.push(" +?");
    }
}

/// Whether a keepalive timer may run that sock_diag does not report: it reports one timer only.
fn may_hide(one_timer_only: bool, timers: &[RunningTimer]) -> bool {
    let before = [TimerKind::Retransmit, TimerKind::WindowProbe];
    one_timer_only && timers.iter().any(|timer| before.contains(&timer.kind))
}

fn timer_name(kind: TimerKind) -> &'static str {
    match kind {
        TimerKind::Retransmit => "retransmit",
        TimerKind::LossProbe => "loss probe",
        TimerKind::Reorder => "reorder",
        TimerKind::WindowProbe => "window probe",
        TimerKind::Keepalive => "keepalive",
        TimerKind::FinWait2 => "fin_wait2",
        TimerKind::DelayedAck => "delayed ack",
        TimerKind::TimeWait => "time_wait",
        TimerKind::SynAck => "syn-ack",
    }
}

/// `7.0s (timer 2.0s)`: the earliest probe, and the deadline of the timer if it is earlier.
fn next_probe(socket: &ListedSocket, text: &mut Text) {
    let hidden = may_hide(socket.one_timer_only, &socket.timers);
    match socket.next_probe {
        None => text.push(if hidden { "?" } else { "-" }),
        Some(NextProbe {
            blocked_by: Some(blocker),
            timer_ms,
            ..
        }) => text.push(match blocker {
            Blocker::DataInFlight => "data in flight",
            Blocker::DataUnsent => "data unsent",
            Blocker::TimerStops => "stops",
            Blocker::ConnectionEnds => {
                text.push("dies in ");
                return brief(timer_ms, text);
            }
        }),
        Some(NextProbe {
            earliest_ms: Some(earliest),
            timer_ms,
            ..
        }) => {
            brief(earliest, text);
            if earliest > timer_ms {
                text.push(" (timer ");
                brief(timer_ms, text);
                text.push(")");
            }
        }
        Some(_) => text.push("?"),
    }
}

/// Writes a short duration without `fmt`: a listing has a million of them.
fn brief(ms: u64, text: &mut Text) {
    let Brief { large, unit, small } = Brief::of(ms);
    text.number(large);
    text.push(unit);
    if let Some((number, unit)) = small {
        text.number(number);
        text.push(unit);
    }
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
            Some(sysctl) => writeln!(
                writer,
                ", tcp_keepalive_time {}, tcp_keepalive_intvl {}, tcp_keepalive_probes {}, tcp_retries2 {}",
                sysctl.time_ms / 1000,
                sysctl.interval_ms / 1000,
                sysctl.probes,
                sysctl.retries2
            )?,
            None => writeln!(writer, ", sysctls not shown here")?,
        }
    }
    for incomplete in &end.incomplete {
        writeln!(
            writer,
            "unknown: {} ({}): {}",
            incomplete.what, incomplete.count, incomplete.reason
        )?;
    }
    Ok(())
}

fn source(source: ListSource) -> &'static str {
    match source {
        ListSource::Iterator => "BPF iterator",
        ListSource::SockDiag => "sock_diag",
    }
}

#[cfg(test)]
mod tests;
