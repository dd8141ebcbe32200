//! Address families, network namespaces and MPTCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use crate::harness::suite::{Scenario, Stage};
use crate::kit::net::{self, Namespace};
use crate::kit::socket::{Keepalive, LOCALHOST, LOCALHOST_V6, Pair, Tcp};
use crate::kit::watch::{Settings, Watch};
use crate::trace::answered::expect_answer;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "ipv6",
        run: ipv6,
    },
    Scenario {
        name: "ipv4_mapped",
        run: ipv4_mapped,
    },
    Scenario {
        name: "two_namespaces",
        run: two_namespaces,
    },
    Scenario {
        name: "mptcp",
        run: mptcp,
    },
];

fn ipv6(stage: &Stage<'_>) -> Result<()> {
    probed_and_answered(stage, Pair::over(LOCALHOST_V6)?, "ipv6", "::1")
}

/// An IPv6 socket with an IPv4-mapped address.
fn ipv4_mapped(stage: &Stage<'_>) -> Result<()> {
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let pair = Pair::from(Tcp::new(any)?, Tcp::new(any)?, any, mapped)?;
    probed_and_answered(stage, pair, "ipv4", "127.0.0.1")
}

fn probed_and_answered(stage: &Stage<'_>, pair: Pair, family: &str, address: &str) -> Result<()> {
    for end in [&pair.client, &pair.server] {
        let watch = stage.watch(end)?;
        watch.arm(end, Keepalive::EVERY_SECOND)?;
        let armed = watch.armed("setsockopt")?;
        armed.expect("socket.family", family)?;
        armed.expect("socket.peer.address", address)?;
        let probe = watch.decision("probe_sent")?;
        stage.facts.expect_probe(&watch, &probe, 1)?;
        expect_answer(&watch)?;
    }
    Ok(())
}

/// Each namespace has its own defaults; a value set on a socket overrides only that value.
fn two_namespaces(stage: &Stage<'_>) -> Result<()> {
    let first = Namespace::current()?;
    set_defaults(1, 2, 4)?;
    let here = Pair::over(LOCALHOST)?;
    let here_watch = stage.watch(&here.client)?;
    let _second = Namespace::create()?;
    set_defaults(600, 60, 6)?;
    let there = Pair::over(LOCALHOST)?;
    let there_watch = stage.watch(&there.client)?;

    there_watch.expect_settings(defaults(600, 60, 6));
    there.client.switch_keepalive(true)?;
    let armed = there_watch.armed("setsockopt")?;
    armed.expect_within("next_ms", stage.facts.about(600_000))?;
    there_watch.expect_settings(Settings {
        time_ms: 1000,
        time_origin: "socket",
        ..defaults(600, 60, 6)
    });
    there.client.set_idle(1)?;
    there_watch.armed("setsockopt")?;
    let probe = there_watch.timer()?;
    stage.facts.expect_probe(&there_watch, &probe, 1)?;

    first.enter()?;
    here_watch.expect_settings(defaults(1, 2, 4));
    here.client.switch_keepalive(true)?;
    let armed = here_watch.armed("setsockopt")?;
    armed.expect_within("next_ms", stage.facts.about(1000))?;
    let probe = here_watch.timer()?;
    stage.facts.expect_probe(&here_watch, &probe, 1)
}

pub fn set_defaults(time: u64, interval: u64, probes: u64) -> Result<()> {
    net::sysctl("tcp_keepalive_time", time)?;
    net::sysctl("tcp_keepalive_intvl", interval)?;
    net::sysctl("tcp_keepalive_probes", probes)
}

fn defaults(time: u64, interval: u64, probes: u64) -> Settings {
    Settings {
        enabled: true,
        time_ms: time * 1000,
        interval_ms: interval * 1000,
        probes,
        ..Settings::OFF
    }
}

/// The timer belongs to the subflow, the descriptor to the MPTCP socket.
fn mptcp(stage: &Stage<'_>) -> Result<()> {
    // Only since Linux 6.12 does TCP_KEEPIDLE apply to the subflows; the namespace's default always
    // does.
    set_defaults(1, 1, 9)?;
    let pair = Pair::from(
        Tcp::new_mptcp(LOCALHOST)?,
        Tcp::new_mptcp(LOCALHOST)?,
        LOCALHOST,
        LOCALHOST,
    )?;
    let mut subflows = Vec::new();
    for end in [&pair.client, &pair.server] {
        // The subflow's cookie is not the MPTCP socket's.
        let watch = Watch::between(stage.tracer, end.local()?, end.peer()?, None)?;
        stage.show(watch.key);
        watch.expect_settings(defaults(1, 1, 9));
        end.switch_keepalive(true)?;
        let probe = watch.decision("probe_sent")?;
        stage.facts.expect_probe(&watch, &probe, 1)?;
        probe.expect("socket.mptcp", true)?;
        expect_answer(&watch)?;
        subflows.push(watch);
    }
    drop(pair);
    for watch in &subflows {
        watch.owner_may_be_unknown();
        watch.next("the end of the subflow", |event| event.is("closed"))?;
    }
    // The MPTCP sockets change state too, but are not TCP sockets.
    let events = stage.events()?;
    for event in &events {
        event.expect("socket.mptcp", true)?;
    }
    let ends = events.iter().filter(|event| event.is("closed")).count();
    ensure!(ends == 2, "two subflows, but {ends} ends");
    let plain = Pair::over(LOCALHOST)?;
    let watch = stage.watch(&plain.client)?;
    watch.arm(&plain.client, Keepalive::EVERY_SECOND)?;
    watch.armed("setsockopt")?.expect("socket.mptcp", false)
}
