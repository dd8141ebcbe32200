//! Runs `keepalive list` and parses its output.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::harness::bench::{Bench, Refused};
use crate::kit::event::Event;
use crate::kit::socket::Tcp;

/// The sources that a column of the matrix tests: the iterator has the same requirements as fentry;
/// for other backends sock_diag, and the one that `auto` selects.
pub fn sources(bench: &Bench) -> &'static [&'static str] {
    match bench.backend.as_str() {
        "fentry" => &["iterator"],
        _ => &["sock-diag", "auto"],
    }
}

/// The command line.
pub fn command(bench: &Bench, source: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(&bench.keepalive);
    command
        .args(["list", "--source", source])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// The output of `list --json`.
pub struct Listing {
    pub sockets: Vec<Event>,
    pub end: Event,
    pub stderr: String,
}

impl Listing {
    /// Lists in the calling thread's namespace.
    pub fn of(bench: &Bench, source: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = command(bench, source, arguments);
        command.arg("--json");
        Self::from(command)
    }

    pub fn from(command: Command) -> Result<Self> {
        let run = Refused::from(command)?;
        run.expect_code(0)?;
        Self::read(&run.stdout, run.stderr.clone())
    }

    fn read(stdout: &str, stderr: String) -> Result<Self> {
        let mut sockets: Vec<Event> = stdout.lines().map(Event::parse).collect::<Result<_>>()?;
        let end = sockets.pop().context("nothing was listed")?;
        ensure!(end.is("list_end"), "the last line is {end}");
        if let Some(other) = sockets.iter().find(|line| !line.is("socket")) {
            bail!("unexpected kind of line: {other}");
        }
        end.expect("sockets", sockets.len() as u64)?;
        let cookies: BTreeSet<String> = sockets.iter().map(identity).collect();
        ensure!(
            cookies.len() == sockets.len(),
            "a socket is listed twice: {sockets:?}"
        );
        Ok(Self {
            sockets,
            end,
            stderr,
        })
    }

    /// Whether the source reports all timers and settings of all sockets.
    pub fn is_complete_source(&self) -> bool {
        self.end.text("source") == "iterator"
    }

    /// The row of one of our sockets.
    pub fn row(&self, socket: &Tcp) -> Result<&Event> {
        self.between(socket.local()?, socket.peer()?)
    }

    /// The row with these ends.
    pub fn between(&self, local: SocketAddr, peer: SocketAddr) -> Result<&Event> {
        let mut rows = self
            .sockets
            .iter()
            .filter(|row| end_is(row, "local", local) && end_is(row, "peer", peer));
        let row = rows
            .next()
            .with_context(|| format!("{local} → {peer} is not listed: {:?}", self.sockets))?;
        ensure!(rows.next().is_none(), "listed twice: {row}");
        Ok(row)
    }

    /// The row of a listener.
    pub fn listener(&self, socket: &Tcp) -> Result<&Event> {
        let local = socket.local()?;
        let any = match local {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        };
        self.between(local, any)
    }
}

/// What identifies a socket within one listing.
fn identity(row: &Event) -> String {
    ["netns", "local", "peer", "cookie"]
        .map(|field| row.get(&format!("socket.{field}")).to_string())
        .concat()
}

fn end_is(row: &Event, end: &str, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical().to_string();
    row.text(&format!("socket.{end}.address")) == ip
        && row.number(&format!("socket.{end}.port")).ok() == Some(address.port().into())
}

/// The timer of this kind; `None` if the row has none.
pub fn timer(row: &Event, kind: &str) -> Option<(u64, u64)> {
    let timers = row.get("timers").as_array()?;
    let timer = timers.iter().find(|timer| timer["kind"] == kind)?;
    Some((timer["in_ms"].as_u64()?, timer["retries"].as_u64()?))
}
