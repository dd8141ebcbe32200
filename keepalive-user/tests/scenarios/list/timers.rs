//! The timers of a listing: every kind of timer, on real sockets, compared with `ss`.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::AddressFamily;

use crate::harness::bench::{Bench, HardCase};
use crate::kit::diag;
use crate::kit::event::Event;
use crate::kit::listing::{Listing, sources, timer};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::ss;
use crate::kit::sys;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "list_timers",
        run: timers,
    },
    HardCase {
        name: "list_lazy_deadline",
        run: lazy_deadline,
    },
];

const PATIENCE: Duration = Duration::from_secs(20);
/// The largest accepted difference between two deadlines.
const TOLERANCE_MS: u64 = 100;

/// One socket for every kind of timer and state.
struct Zoo {
    idle: Pair,
    in_flight: Pair,
    full: Pair,
    /// Ends of the socket in TIME_WAIT, and its peer.
    time_wait: (SocketAddr, SocketAddr),
    orphan: (SocketAddr, SocketAddr),
    small_orphan: (SocketAddr, SocketAddr),
    /// Not accepted, and its peer has sent FIN.
    waiting: (SocketAddr, SocketAddr),
    connecting: Tcp,
    listener: Tcp,
    _kept: Vec<Tcp>,
}

impl Zoo {
    fn new() -> Result<Self> {
        let slow = Keepalive::after(600);
        let idle = Pair::over(LOCALHOST)?;
        idle.client.arm(slow)?;
        let in_flight = Pair::over(LOCALHOST)?;
        in_flight.client.arm(slow)?;
        in_flight.server.deafen()?;
        in_flight.client.send(b"no ACK comes back")?;
        let full = Pair::with_narrow_server()?;
        full.client.fill()?;

        let leaving = Pair::over(LOCALHOST)?;
        let time_wait = (leaving.client.local()?, leaving.client.peer()?);
        leaving.client.finish()?;
        leaving.server.finish()?;

        let left = Pair::over(LOCALHOST)?;
        let orphan = (left.client.local()?, left.client.peer()?);
        // TCP_LINGER2 above TIME_WAIT, or the kernel keeps only a tcp_timewait_sock.
        left.client.set_linger2(100)?;
        let Pair { client, server, .. } = left;
        drop(client);

        let left = Pair::over(LOCALHOST)?;
        let small_orphan = (left.client.local()?, left.client.peer()?);
        left.client.set_linger2(30)?;
        let small_peer = left.server;
        drop(left.client);

        let crowd = Tcp::new(LOCALHOST)?;
        crowd.listen(LOCALHOST)?;
        let early = Tcp::new(LOCALHOST)?;
        early.connect(crowd.local()?)?;
        early.finish()?;
        let waiting = (crowd.local()?, early.local()?);

        let listener = Tcp::new(LOCALHOST)?;
        listener.listen(LOCALHOST)?;
        let connecting = Tcp::new(LOCALHOST)?;
        connecting.deafen()?;
        connecting.begin_to_connect(SocketAddr::new(LOCALHOST, listener.local()?.port()))?;
        Ok(Self {
            idle,
            in_flight,
            full,
            time_wait,
            orphan,
            small_orphan,
            waiting,
            connecting,
            listener,
            _kept: vec![server, small_peer, crowd, early],
        })
    }

    /// Every row shows the state and the timer that the kernel must have.
    fn check(&self, listing: &Listing) -> Result<()> {
        let complete = listing.is_complete_source();
        expect_timer(listing.row(&self.idle.client)?, "established", "keepalive")?;
        let row = listing.row(&self.in_flight.client)?;
        expect_timer(row, "established", "retransmit")?;
        row.expect("send_queue", 17)?;
        row.expect("one_timer_only", !complete)?;
        if complete {
            expect_timer(row, "established", "keepalive")?;
            row.expect("next_probe.blocked_by", "data_in_flight")?;
        } else {
            row.expect("next_probe", serde_json::Value::Null)?;
        }
        expect_timer(
            listing.row(&self.full.client)?,
            "established",
            "window_probe",
        )?;
        let (local, peer) = self.time_wait;
        let row = listing.between(local, peer)?;
        expect_timer(row, "time_wait", "time_wait")?;
        row.expect("uid", serde_json::Value::Null)?;
        row.expect("keepalive", serde_json::Value::Null)?;
        let (local, peer) = self.orphan;
        let row = listing.between(local, peer)?;
        expect_timer(row, "fin_wait2", "fin_wait2")?;
        row.expect("orphan", true)?;
        row.expect("next_probe", serde_json::Value::Null)?;
        // This end drops the SYN-ACK and stays in SYN_SENT; the listener's end is a request socket.
        let (local, peer) = (self.connecting.local()?, self.listener.local()?);
        let row = listing.between(local, peer)?;
        expect_timer(row, "syn_sent", "retransmit")?;
        if complete {
            row.expect("death.rule", "connect_timeout")?;
        }
        expect_timer(listing.between(peer, local)?, "syn_recv", "syn_ack")?;
        // This end waits no longer than TIME_WAIT, so the kernel keeps only a tcp_timewait_sock.
        let (local, peer) = self.small_orphan;
        let row = listing.between(local, peer)?;
        expect_timer(row, "fin_wait2", "fin_wait2")?;
        row.expect("orphan", true)?;
        row.expect("next_probe", serde_json::Value::Null)?;
        // Its peer has closed, but it is not an orphan: it waits to be accepted.
        let (local, peer) = self.waiting;
        let row = listing.between(local, peer)?;
        row.expect("socket.state", "close_wait")?;
        row.expect("orphan", false)?;
        let row = listing.listener(&self.listener)?;
        row.expect("socket.state", "listen")?;
        row.expect("send_queue", 4096)?;
        Ok(())
    }
}

fn expect_timer(row: &Event, state: &str, kind: &str) -> Result<()> {
    row.expect("socket.state", state)?;
    ensure!(timer(row, kind).is_some(), "no {kind} timer in {row}");
    Ok(())
}

/// All kinds of timers; `ss` shows the same value for each.
fn timers(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let zoo = Zoo::new()?;
    for source in sources(bench) {
        let begin = Instant::now();
        // Retransmissions continue meanwhile, so a compared value may just have changed: retried
        // until PATIENCE is over.
        loop {
            let outcome = agree(bench, source, &zoo);
            match outcome {
                Ok(()) => break,
                Err(error) if begin.elapsed() > PATIENCE => return Err(error).context(*source),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
    Ok(())
}

fn agree(bench: &Bench, source: &str, zoo: &Zoo) -> Result<()> {
    let before = sys::monotonic_ns() / 1_000_000;
    let witness = ss::lines()?;
    let after = sys::monotonic_ns() / 1_000_000;
    let listing = Listing::of(bench, source, &[])?;
    zoo.check(&listing)?;
    ensure!(
        witness.len() == listing.sockets.len(),
        "ss sees {} sockets, list {}",
        witness.len(),
        listing.sockets.len()
    );
    to_the_millisecond(&listing)?;
    for line in witness {
        let row = listing.between(address(&line.local)?, address(&line.peer)?)?;
        same(&line, row, before, after).with_context(|| format!("{line:?} and {row}"))?;
    }
    Ok(())
}

/// Every deadline agrees with sock_diag's, within `TOLERANCE_MS`.
fn to_the_millisecond(listing: &Listing) -> Result<()> {
    let before = sys::monotonic_ns() / 1_000_000;
    let witness = diag::timers(AddressFamily::INET)?;
    let after = sys::monotonic_ns() / 1_000_000;
    ensure!(
        after - before < TOLERANCE_MS / 2,
        "the witness took too long"
    );
    for reported in witness {
        let row = listing.between(reported.local, reported.peer)?;
        let kinds: &[&str] = match reported.kind {
            0 => continue,
            1 => &["retransmit", "loss_probe", "reorder", "syn_ack"],
            2 => &["keepalive", "fin_wait2"],
            3 => &["time_wait", "fin_wait2"],
            4 => &["window_probe"],
            other => bail!("a timer of kind {other}"),
        };
        let (in_ms, retries) = kinds
            .iter()
            .find_map(|kind| timer(row, kind))
            .with_context(|| format!("list has no such timer: {reported:?}, {row}"))?;
        let deadline = row.at_ns() / 1_000_000 + in_ms;
        let middle = (before + after) / 2 + reported.left_ms;
        ensure!(
            deadline.abs_diff(middle) <= TOLERANCE_MS && retries == reported.retries,
            "deadline {deadline}, expected {middle}: {reported:?}, {row}"
        );
    }
    Ok(())
}

/// `ss` writes `*` for the unspecified address.
fn address(text: &str) -> Result<SocketAddr> {
    let text = text.replace(":*", ":0").replace('*', "[::]");
    text.parse().with_context(|| format!("an address: {text}"))
}

fn same(line: &ss::Line, row: &Event, before: u64, after: u64) -> Result<()> {
    let state = match line.state.as_str() {
        "ESTAB" => "established",
        "FIN-WAIT-1" => "fin_wait1",
        "FIN-WAIT-2" => "fin_wait2",
        "UNCONN" => "close",
        other => &other.to_lowercase().replace('-', "_"),
    };
    row.expect("socket.state", state)?;
    row.expect("receive_queue", line.receive_queue)?;
    row.expect("send_queue", line.send_queue)?;
    // If the kernel does not report it, `ss` shows none.
    if !row.get("uid").is_null() || line.uid != 0 {
        row.expect("uid", line.uid)?;
    }
    if !line.cookie.is_empty() && !row.get("socket.cookie").is_null() {
        row.expect("socket.cookie", line.cookie.as_str())?;
    }
    if line.inode != 0 {
        row.expect("inode", line.inode)?;
    }
    let Some(witness) = &line.timer else {
        ensure!(
            row.get("timers").as_array().is_some_and(|timers| {
                timers.iter().all(|timer| timer["kind"] == "delayed_ack")
            }),
            "ss sees no timer"
        );
        return Ok(());
    };
    let kinds: &[&str] = match witness.name.as_str() {
        "on" => &["retransmit", "loss_probe", "reorder", "syn_ack"],
        "keepalive" => &["keepalive", "fin_wait2"],
        // An orphan in FIN_WAIT2 that is still a full socket.
        "timewait" => &["time_wait", "fin_wait2"],
        "persist" => &["window_probe"],
        other => bail!("a timer that ss calls {other}"),
    };
    let (in_ms, retries) = kinds
        .iter()
        .find_map(|kind| timer(row, kind))
        .context("list has no such timer")?;
    ensure!(retries == witness.retries, "retries differ");
    let deadline = row.at_ns() / 1_000_000 + in_ms;
    let earliest = (before + witness.left_ms).saturating_sub(TOLERANCE_MS);
    let latest = after + witness.left_ms + witness.unit_ms + TOLERANCE_MS;
    ensure!(
        (earliest..=latest).contains(&deadline),
        "deadlines differ: {deadline}, by ss between {earliest} and {latest}"
    );
    Ok(())
}

/// The kernel does not move the deadline while there is traffic; a probe can leave only one idle
/// time after the last segment.
fn lazy_deadline(bench: &Bench) -> Result<()> {
    const IDLE_MS: u64 = 20_000;
    let _namespace = Namespace::create()?;
    for source in sources(bench) {
        let pair = Pair::over(LOCALHOST)?;
        pair.client.arm(Keepalive::after(20))?;
        let armed = sys::monotonic_ns() / 1_000_000;
        thread::sleep(Duration::from_millis(1500));
        pair.server.send(b"x")?;
        pair.client.receive(1)?;
        let heard = sys::monotonic_ns() / 1_000_000;
        thread::sleep(Duration::from_millis(500));
        let listing = Listing::of(bench, source, &[])?;
        let row = listing.row(&pair.client)?;
        let now = row.at_ns() / 1_000_000;
        let about = |deadline: u64| {
            let left = deadline - now;
            left.saturating_sub(TOLERANCE_MS)..=left + TOLERANCE_MS
        };
        row.expect_within("next_probe.timer_ms", about(armed + IDLE_MS))?;
        row.expect_within("next_probe.earliest_ms", about(heard + IDLE_MS))?;
        let silence = row.number("silence_ms")?;
        ensure!(
            silence.abs_diff(now - heard) <= TOLERANCE_MS,
            "silence is {silence} ms, last segment {} ms ago: {row}",
            now - heard
        );
        // The only segment this side has received since it was armed carries data.
        ensure!(row.number("last_data_ms")? == silence, "{row}");
    }
    Ok(())
}
