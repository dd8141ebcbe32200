//! When the kernel will end a connection, and by which rule.

use keepalive_ebpf::Snapshot;

use super::{is_connected, knows_settings, probes};
use crate::core::{
    arithmetic::{self, ConnectionEnd, Effective, jiffies_to_millis},
    event::{ListedDeath, Rule},
    kernel::{pending, state},
    sample::{may_send, unsent},
};

/// The end of the connection if nothing more is received, by the timer that applies now.
pub fn death(socket: &Snapshot, hz: u32) -> Option<ListedDeath> {
    if !knows_settings(socket) {
        return None;
    }
    let sample = &socket.sample;
    let effective = Effective::new(&socket.settings, hz);
    let write = socket.write_expires.saturating_sub(sample.jiffies);
    let end = if socket.id.state == state::SYN_SENT {
        (sample.pending == pending::RETRANS)
            .then(|| arithmetic::connect_end(&effective, sample, write, hz))?
    } else if is_connected(socket) {
        connected(socket, &effective, write, hz)
    } else {
        None
    }?;
    Some(ListedDeath {
        in_ms: jiffies_to_millis(end.after, hz),
        rule: end.rule,
        is_estimate: is_estimate(socket, &end),
    })
}

/// `write`: until the write timer runs, jiffies.
fn connected(
    socket: &Snapshot,
    effective: &Effective,
    write: u64,
    hz: u32,
) -> Option<ConnectionEnd> {
    let sample = &socket.sample;
    let is_probed = sample.probes_out > 0 || sample.backoff > 0;
    match sample.pending {
        pending::RETRANS => arithmetic::retransmit_end(effective, sample, write, hz),
        // The time at which the window closed is unknown.
        pending::PROBE0
            if effective.user_timeout != 0 && sample.probes_tstamp == 0 && is_probed =>
        {
            None
        }
        pending::PROBE0 => arithmetic::persist_end(effective, sample, write, hz),
        _ if sample.packets_out == 0
            && unsent(sample) == 0
            && sample.timer_pending
            && !socket.id.orphan
            && probes(socket) =>
        {
            arithmetic::idle_end(effective, sample)
        }
        _ => None,
    }
}

/// Whether it depends on timeouts that are not known: those of retransmissions follow the round-trip time and
/// add up, each late; a send that fails on this host is retried after a timeout or after 500 ms
/// (`TCP_RESOURCE_PROBE_INTERVAL`).
fn is_estimate(socket: &Snapshot, end: &ConnectionEnd) -> bool {
    let sample = &socket.sample;
    let is_retransmitting = sample.pending == pending::RETRANS;
    match end.rule.rule() {
        Some(Rule::UserTimeout) => {
            is_retransmitting && sample.retransmits > 0 && sample.retrans_stamp == 0
        }
        Some(Rule::Retries2) => is_retransmitting || may_send(sample),
        Some(Rule::SynRetries | Rule::OrphanRetries) => true,
        Some(Rule::KeepCount) | None => false,
    }
}
