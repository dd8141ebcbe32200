//! Ends that a timer or another process makes, of sockets without keepalive too: orphans, connections
//! that were never answered, owners that are killed, aborts from outside.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::diag;
use crate::kit::link::{self, Link};
use crate::kit::net::{self, set_link_up};
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::sys::Child;
use crate::kit::watch::{Settings, Watch};
use crate::trace::death::expect_same_error;
use crate::trace::suppressed::{over, stall};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "retransmit_without_keepalive",
        run: retransmit_without_keepalive,
    },
    Scenario {
        name: "orphan_unacknowledged",
        run: orphan_unacknowledged,
    },
    Scenario {
        name: "orphan_zero_window",
        run: orphan_zero_window,
    },
    Scenario {
        name: "connect_user_timeout",
        run: connect_user_timeout,
    },
    Scenario {
        name: "connect_abandoned",
        run: connect_abandoned,
    },
    Scenario {
        name: "owner_killed",
        run: owner_killed,
    },
    Scenario {
        name: "aborted_from_outside",
        run: aborted_from_outside,
    },
    Scenario {
        name: "data_cannot_be_sent",
        run: data_cannot_be_sent,
    },
];

/// SO_KEEPALIVE is off: the retransmission timer ends the connection.
fn retransmit_without_keepalive(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_retries2", 3)?;
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    pair.server.deafen()?;
    pair.client.send(b"twelve bytes")?;
    let closed = watch.closed("retransmit_timeout")?;
    closed.expect("undelivered_bytes", 12)?;
    closed.expect("orphan", false)?;
    closed.expect("closed_by", Value::Null)?;
    closed.expect_within("retransmits", 3..=5)?;
    closed.expect_within("retransmitting_ms", 1000..=60_000)?;
    expect_same_error(&closed, &pair.client.failure()?, "ETIMEDOUT")
}

/// Closed with data that the peer never acknowledges: `tcp_orphan_retries`, not `tcp_retries2`.
fn orphan_unacknowledged(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_orphan_retries", 2)?;
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.owner_may_be_unknown();
    pair.server.deafen()?;
    pair.client.send(b"lost")?;
    drop(pair.client);
    let closed = watch.closed("orphan_timeout")?;
    closed.expect("from_state", "fin_wait1")?;
    closed.expect("orphan", true)?;
    closed.expect("undelivered_bytes", 4)?;
    closed.expect("error", Value::Null)
}

/// An orphan behind a closed window of a peer that is dead.
fn orphan_zero_window(stage: &Stage<'_>) -> Result<()> {
    net::sysctl("tcp_orphan_retries", 2)?;
    let pair = Pair::with_narrow_server()?;
    let watch = stage.watch(&pair.client)?;
    watch.owner_may_be_unknown();
    stall(stage, &pair.client)?;
    pair.server.deafen()?;
    let unsent = pair.client.unsent()?;
    drop(pair.client);
    let closed = watch.closed("orphan_timeout")?;
    closed.expect("orphan", true)?;
    closed.expect("undelivered_bytes", unsent)?;
    closed.expect_within("probes_out", 1..=4)?;
    Ok(())
}

/// TCP_USER_TIMEOUT is shorter than what the SYNs are retried for.
fn connect_user_timeout(stage: &Stage<'_>) -> Result<()> {
    let (client, watch) = connecting(stage)?;
    client.set_user_timeout_ms(2000)?;
    watch.expect_settings(Settings {
        user_timeout_ms: 2000,
        ..Settings::OFF
    });
    client.begin_to_connect(SocketAddr::new(LOCALHOST, watch.key.peer_port))?;
    // Its owner is resolved between the first retransmission and the end.
    watch.owner_may_be_unknown();
    let closed = watch.closed("connect_user_timeout")?;
    closed.expect("from_state", "syn_sent")?;
    closed.expect("error", "ETIMEDOUT")?;
    closed.expect_within("retransmits", 1..=3)?;
    Ok(())
}

/// The application closes the socket while its SYN is not answered.
fn connect_abandoned(stage: &Stage<'_>) -> Result<()> {
    let (client, watch) = connecting(stage)?;
    client.begin_to_connect(SocketAddr::new(LOCALHOST, watch.key.peer_port))?;
    stage.until("the SYN to be retransmitted", || {
        Ok(client.info()?.tcpi_retransmits > 0)
    })?;
    watch.owner_may_be_unknown();
    drop(client);
    let closed = watch.closed("connect_abandoned")?;
    closed.expect("from_state", "syn_sent")?;
    closed.expect("error", Value::Null)?;
    closed.expect("closed_by.pid", std::process::id())?;
    closed.expect_within("retransmitting_ms", 900..=60_000)?;
    Ok(())
}

/// A client whose SYN-ACKs are dropped, bound to its port.
fn connecting<'t>(stage: &Stage<'t>) -> Result<(Tcp, Watch<'t>)> {
    let peer = Tcp::new(LOCALHOST)?;
    peer.listen(LOCALHOST)?;
    let client = Tcp::new(LOCALHOST)?;
    client.deafen()?;
    client.bind(LOCALHOST)?;
    let cookie = client.cookie()?;
    let watch = Watch::between(stage.tracer, client.local()?, peer.local()?, Some(cookie))?;
    stage.show(watch.key);
    // Its SYNs find a listener until the process ends.
    std::mem::forget(peer);
    Ok((client, watch))
}

/// SIGKILL, and an exit: the kernel closes the sockets in both cases.
fn owner_killed(stage: &Stage<'_>) -> Result<()> {
    for (signal, cause) in [(Some(9), "owner_killed"), (None, "local_close")] {
        let pair = Pair::over(LOCALHOST)?;
        let watch = stage.watch(&pair.client)?;
        watch.owner_may_be_any();
        watch.arm(&pair.client, Keepalive::after(60))?;
        let owner = match signal {
            Some(_) => Child::fork()?,
            None => Child::start(|| {
                std::thread::sleep(std::time::Duration::from_millis(300));
                0
            })?,
        };
        drop(pair.client);
        if let Some(pid) = Pid::from_raw(owner.pid()).filter(|_| signal.is_some()) {
            kill_process(pid, Signal::KILL)?;
        }
        let closing = stage.until("the FIN to arrive", || {
            Ok(pair.server.info()?.tcpi_state == 8 /* CLOSE_WAIT */)
        });
        drop(pair.server);
        closing?;
        let closed = watch.closed(cause)?;
        closed.expect("closed_by.pid", owner.pid())?;
        closed.expect("closed_by.exiting", true)?;
        closed.expect("closed_by.signal", signal.map_or(Value::Null, Value::from))?;
    }
    Ok(())
}

/// SOCK_DESTROY, as of `ss -K`. The process that asks for it is this one, but it does not close it.
fn aborted_from_outside(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&pair.client)?;
    watch.arm(&pair.client, Keepalive::after(60))?;
    diag::destroy(pair.client.local()?, pair.client.peer()?)?;
    let closed = watch.closed("outside_abort")?;
    closed.expect("from_state", "established")?;
    closed.expect("error", "ECONNABORTED")?;
    closed.expect("closed_by.pid", std::process::id())?;
    closed.expect("closed_by.exiting", false)
}

/// The near end of the link is down: data is retried by the persist timer although the peer's window is
/// open, and no probe is sent.
fn data_cannot_be_sent(stage: &Stage<'_>) -> Result<()> {
    let link = Link::create()?;
    let pair = over(&link)?;
    let watch = stage.watch(&pair.client)?;
    watch.owner_may_be_unknown();
    set_link_up(link::NEAR, false)?;
    pair.client.send(b"stays here")?;
    let mut retries = 0;
    for _ in 0..2 {
        let retry = watch.next("a retry", |event| event.is("send_retry"))?;
        retry.expect("unsent_bytes", 10)?;
        let after = retry.number("retries.after")?;
        ensure!(after > retries, "{after} retries after {retries}: {retry}");
        retries = after;
        retry.expect("outage", "no_route")?;
        if stage.facts.fentry {
            retry.expect("sent", false)?;
        }
    }
    watch.never("a zero-window probe", |event| event.is("window_probe"))?;
    watch.never("an answer", |event| event.is("answer"))
}
