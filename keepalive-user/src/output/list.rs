//! The listing as a table: a line per socket, and below it what holds for all.

use std::{
    fmt::{self, Write as _},
    io::Write,
};

use anyhow::{Context, Result};

use super::{escape, json_line, words::plural};
use crate::event::{
    Blocker, Keepalive, ListEnd, ListLine, ListSource, ListedSocket, NextProbe, Origin,
    RunningTimer, Socket, TcpState, TimerKind,
};

/// How a listing is shown.
pub enum ListOutput<W: Write> {
    Json(W),
    Table {
        writer: W,
        colour: bool,
        columns: Columns,
        /// The line being made.
        line: String,
    },
}

/// Widths of the columns that depend on the rows, and whether a column is there at all.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    local: usize,
    peer: usize,
    keepalive: usize,
    timers: usize,
    next_probe: usize,
    netns: bool,
    owner: bool,
}

impl Columns {
    pub fn new(netns: bool, owner: bool) -> Self {
        let [_, _, _, local, peer, keepalive, timers, next_probe, ..] = HEADER.map(str::len);
        Self {
            local,
            peer,
            keepalive,
            timers,
            next_probe,
            netns,
            owner,
        }
    }

    /// Makes room for a socket.
    pub fn fit(&mut self, socket: &ListedSocket) {
        let mut text = String::new();
        let mut width = |fill: &dyn Fn(&mut String) -> fmt::Result| {
            text.clear();
            // Writing to a string cannot fail.
            let _ = fill(&mut text);
            text.len()
        };
        let Socket { local, peer, .. } = &socket.socket;
        self.local = self.local.max(width(&|text| write!(text, "{local}")));
        self.peer = self.peer.max(width(&|text| write!(text, "{peer}")));
        let settings = socket.keepalive.as_ref();
        self.keepalive = self.keepalive.max(width(&|text| keepalive(settings, text)));
        self.timers = self.timers.max(width(&|text| timers(socket, text)));
        self.next_probe = self
            .next_probe
            .max(width(&|text| next_probe(socket.next_probe, text)));
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

impl<W: Write> ListOutput<W> {
    pub fn new(json: bool, colour: bool, writer: W) -> Self {
        if json {
            Self::Json(writer)
        } else {
            Self::Table {
                writer,
                colour,
                columns: Columns::new(false, true),
                line: String::new(),
            }
        }
    }

    /// Begins a listing; `again` if another one was shown before.
    pub fn begin(&mut self, wanted: Columns, again: bool) -> Result<()> {
        let Self::Table {
            writer,
            colour,
            columns,
            line,
        } = self
        else {
            return Ok(());
        };
        *columns = wanted;
        line.clear();
        if again {
            // On a terminal the new table takes the place of the old one.
            line.push_str(if *colour {
                "\x1b[H\x1b[2J\x1b[3J"
            } else {
                "\n"
            });
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
        let _ = write!(
            line,
            "{state:11} {recv:>6} {send:>6}  {local:w1$}  {peer:w2$}  {keepalive:w3$}  \
             {timers:w4$}  {probe:w5$}  {silent:>6}",
            w1 = columns.local,
            w2 = columns.peer,
            w3 = columns.keepalive,
            w4 = columns.timers,
            w5 = columns.next_probe
        );
        if columns.netns {
            let _ = write!(line, "  {:>10}", "NETNS");
        }
        if columns.owner {
            let _ = write!(line, "  {owner}");
        }
        line.push('\n');
        writer.write_all(line.as_bytes()).context("cannot write")
    }

    /// Shows one socket.
    pub fn socket(&mut self, socket: ListedSocket) -> Result<()> {
        match self {
            Self::Json(writer) => json_line(&ListLine::Socket(Box::new(socket)), writer),
            Self::Table {
                writer,
                columns,
                line,
                ..
            } => {
                line.clear();
                // Writing to a string cannot fail.
                let _ = row(&socket, *columns, line);
                writer.write_all(line.as_bytes()).context("cannot write")
            }
        }
    }

    /// Ends a listing.
    pub fn end(&mut self, end: ListEnd) -> Result<()> {
        match self {
            Self::Json(writer) => {
                json_line(&ListLine::ListEnd(end), writer)?;
                writer.flush()
            }
            Self::Table { writer, .. } => {
                footer(&end, writer).context("cannot write")?;
                writer.flush()
            }
        }
        .context("cannot write")
    }
}

fn row(socket: &ListedSocket, columns: Columns, line: &mut String) -> fmt::Result {
    write!(
        line,
        "{:11} {:>6} {:>6}  ",
        state(socket.socket.state),
        socket.receive_queue,
        socket.send_queue
    )?;
    cell(line, columns.local, |line| {
        write!(line, "{}", socket.socket.local)
    })?;
    cell(line, columns.peer, |line| {
        write!(line, "{}", socket.socket.peer)
    })?;
    cell(line, columns.keepalive, |line| {
        keepalive(socket.keepalive.as_ref(), line)
    })?;
    cell(line, columns.timers, |line| timers(socket, line))?;
    cell(line, columns.next_probe, |line| {
        next_probe(socket.next_probe, line)
    })?;
    match socket.silence_ms {
        Some(ms) => write!(line, "{:>6}", Brief(ms).to_string())?,
        None => write!(line, "{:>6}", "-")?,
    }
    if columns.netns {
        write!(line, "  {:>10}", socket.socket.netns)?;
    }
    if columns.owner {
        match &socket.process {
            Some(process) => write!(line, "  {}/{}", escape(&process.comm), process.pid)?,
            None if socket.orphan => line.push_str("  (orphan)"),
            None => line.push_str("  -"),
        }
        if socket.pids.len() > 1 {
            write!(line, " +{}", socket.pids.len() - 1)?;
        }
    }
    if socket.socket.mptcp == Some(true) {
        line.push_str("  mptcp");
    }
    line.push('\n');
    Ok(())
}

/// A cell and the gap after it.
fn cell(
    line: &mut String,
    width: usize,
    fill: impl FnOnce(&mut String) -> fmt::Result,
) -> fmt::Result {
    let start = line.len();
    fill(line)?;
    // All that is written is ASCII.
    let used = line.len() - start;
    for _ in used..width + 2 {
        line.push(' ');
    }
    if used > width {
        line.push_str("  ");
    }
    Ok(())
}

/// As netstat and /proc spell them.
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
fn keepalive(keepalive: Option<&Keepalive>, line: &mut String) -> fmt::Result {
    let Some(keepalive) = keepalive else {
        return line.write_char('-');
    };
    if !keepalive.enabled {
        return line.write_str("off");
    }
    seconds(keepalive.time_ms, keepalive.time_origin, line)?;
    line.push('/');
    seconds(keepalive.interval_ms, keepalive.interval_origin, line)?;
    write!(line, "/{}", keepalive.probes)?;
    mark(keepalive.probes_origin, line);
    if keepalive.user_timeout_ms > 0 {
        line.push_str(" ut ");
        seconds(keepalive.user_timeout_ms, Some(Origin::Sysctl), line)?;
    }
    Ok(())
}

fn seconds(ms: u64, origin: Option<Origin>, line: &mut String) -> fmt::Result {
    match ms % 1000 {
        0 => write!(line, "{}", ms / 1000)?,
        rest => write!(line, "{}.{rest:03}", ms / 1000)?,
    }
    mark(origin, line);
    Ok(())
}

fn mark(origin: Option<Origin>, line: &mut String) {
    if origin == Some(Origin::Socket) {
        line.push('*');
    }
}

fn timers(socket: &ListedSocket, line: &mut String) -> fmt::Result {
    if socket.timers.is_empty() {
        return line.write_char('-');
    }
    for (index, timer) in socket.timers.iter().enumerate() {
        if index > 0 {
            line.push_str(", ");
        }
        write!(line, "{} {}", timer_name(timer.kind), Brief(timer.in_ms))?;
        if timer.retries > 0 {
            write!(line, " #{}", timer.retries)?;
        }
    }
    if may_hide(socket.one_timer_only, &socket.timers) {
        line.push_str(" +?");
    }
    Ok(())
}

/// Whether a keepalive timer may run behind the one that is told of.
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

/// `7.0s (timer 2.0s)`: the earliest probe, and the kernel's deadline where it is not that.
fn next_probe(next: Option<NextProbe>, line: &mut String) -> fmt::Result {
    match next {
        None => line.write_char('-'),
        Some(next) => match (next.earliest_ms, next.blocked_by) {
            (_, Some(Blocker::DataInFlight)) => line.write_str("data in flight"),
            (_, Some(Blocker::DataUnsent)) => line.write_str("data unsent"),
            (_, Some(Blocker::ConnectionEnds)) => write!(line, "dies in {}", Brief(next.timer_ms)),
            (_, Some(Blocker::TimerStops)) => line.write_str("stops"),
            (Some(earliest), None) if earliest > next.timer_ms => {
                write!(line, "{} (timer {})", Brief(earliest), Brief(next.timer_ms))
            }
            (Some(earliest), None) => write!(line, "{}", Brief(earliest)),
            (None, None) => line.write_char('?'),
        },
    }
}

/// A time in few characters: `250ms`, `7.9s`, `75s`, `59m12s`, `1h59m`, `3d4h`.
struct Brief(u64);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        let s = ms / 1000;
        match ms {
            0..1_000 => write!(f, "{ms}ms"),
            1_000..10_000 => write!(f, "{s}.{}s", ms % 1000 / 100),
            10_000..100_000 => write!(f, "{s}s"),
            100_000..6_000_000 => write!(f, "{}m{}s", s / 60, s % 60),
            6_000_000..172_800_000 => write!(f, "{}h{}m", s / 3600, s / 60 % 60),
            _ => write!(f, "{}d{}h", s / 86_400, s / 3600 % 24),
        }
    }
}

fn footer(end: &ListEnd, writer: &mut impl Write) -> std::io::Result<()> {
    let source = match end.source {
        ListSource::Iterator => "BPF iterator",
        ListSource::SockDiag => "sock_diag (+? = the kernel tells of one timer, others may run)",
    };
    writeln!(writer, "\n{}, from {source}", plural(end.sockets, "socket"))?;
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
            "not known: {} ({}): {}",
            incomplete.what, incomplete.count, incomplete.reason
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
