//! Half-closed connections and orphans: states other than ESTABLISHED.

use anyhow::Result;
use serde_json::Value;

use crate::harness::suite::{Scenario, Stage};
use crate::kit::expect::expect_no_probe;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::trace::answered::expect_answer;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "close_wait",
        run: close_wait,
    },
    Scenario {
        name: "fin_wait2",
        run: fin_wait2,
    },
    Scenario {
        name: "orphan_fin_wait2",
        run: orphan_fin_wait2,
    },
];

const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;

/// The peer has sent FIN, this side has not: the common leaked connection.
fn close_wait(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    pair.server.finish()?;
    await_state(stage, &pair.client, CLOSE_WAIT)?;
    probed_and_answered_in(stage, &pair.client, "close_wait")
}

/// This side has sent FIN, the peer has not.
fn fin_wait2(stage: &Stage<'_>) -> Result<()> {
    let pair = Pair::over(LOCALHOST)?;
    pair.client.finish()?;
    await_state(stage, &pair.client, FIN_WAIT2)?;
    probed_and_answered_in(stage, &pair.client, "fin_wait2")
}

fn await_state(stage: &Stage<'_>, socket: &Tcp, state: u8) -> Result<()> {
    stage.until(&format!("TCP state {state}"), || {
        Ok(socket.info()?.tcpi_state == state)
    })
}

fn probed_and_answered_in(stage: &Stage<'_>, client: &Tcp, state: &str) -> Result<()> {
    let watch = stage.watch(client)?;
    watch.arm(client, Keepalive::EVERY_SECOND)?;
    for _ in 0..2 {
        let probe = watch.decision("probe_sent")?;
        probe.expect("socket.state", state)?;
        stage.facts.expect_probe(&watch, &probe, 1)?;
        expect_answer(&watch)?;
    }
    Ok(())
}

/// An orphan in FIN_WAIT2 uses the keepalive timer for the part of TCP_LINGER2 that exceeds
/// TCP_TIMEWAIT_LEN (60 s). This is not keepalive, whether keepalive is on or off.
fn orphan_fin_wait2(stage: &Stage<'_>) -> Result<()> {
    let plain = Pair::over(LOCALHOST)?;
    let keeping = Pair::over(LOCALHOST)?;
    let plain_watch = stage.watch(&plain.client)?;
    let keeping_watch = stage.watch(&keeping.client)?;
    keeping_watch.arm(&keeping.client, Keepalive::after(7200))?;
    for pair in [&plain, &keeping] {
        pair.client.set_linger2(61)?;
    }
    for (pair, watch) in [(plain, plain_watch), (keeping, keeping_watch)] {
        watch.owner_may_be_unknown();
        let _peer = pair.server;
        drop(pair.client);
        let timer = watch.timer()?;
        timer.expect("decision", "fin_wait2")?;
        timer.expect("next_ms", Value::Null)?;
        timer.expect("attempts", Value::Null)?;
        timer.expect("death", Value::Null)?;
        expect_no_probe(&timer)?;
        let closed = watch.closed("local_close")?;
        closed.expect("from_state", "fin_wait2")?;
        closed.expect("keepalive_probes", 0)?;
    }
    Ok(())
}
