//! From a [`Snapshot`] to the row that is output. Pure.

mod forecast;

use keepalive_ebpf::{Known, Mptcp, Snapshot, SnapshotKind, TcpSample};

use crate::core::{
    arithmetic::{self, Effective, jiffies_to_millis},
    clock::Clock,
    convert,
    event::{Blocker, ListedSocket, NextProbe, RunningTimer, TimerKind},
    kernel::{pending, state},
    sample::{last_ack, last_data, may_send, peer_probe, silence, zero_window},
};

/// One row, without its owner; `id` is its number in the listing.
pub fn row(socket: &Snapshot, id: u64, hz: u32, clock: &Clock) -> ListedSocket {
    let full = socket.kind == SnapshotKind::Socket;
    let knows = |bit| full && socket.known.contains(bit);
    let millis = |jiffies: u32| jiffies_to_millis(jiffies.into(), hz);
    let heard = |age: Option<u32>| age.filter(|_| knows(Known::TRAFFIC) && is_connected(socket));
    let sample = &socket.sample;
    ListedSocket {
        when: clock.at(sample.time),
        socket: convert::socket(id, socket.id.cookie, &socket.id),
        process: None,
        pids: Vec::new(),
        cgroup: None,
        container_id: None,
        keepalive: knows_settings(socket).then(|| {
            convert::keepalive(
                &socket.settings,
                socket.id.keepopen,
                knows(Known::ORIGINS),
                hz,
            )
        }),
        retries2: Some(socket.settings.sysctl_retries2)
            .filter(|&retries| knows_settings(socket) && retries != 0),
        rto_max_ms: knows_settings(socket)
            .then(|| millis(Effective::new(&socket.settings, hz).rto_max)),
        uid: has_uid(socket).then_some(socket.uid),
        inode: (socket.id.inode != 0).then_some(socket.id.inode),
        orphan: socket.id.orphan || is_fin_wait2(socket),
        timers: timers(socket, hz),
        one_timer_only: full && !socket.known.contains(Known::ALL_TIMERS),
        next_probe: next_probe(socket, hz),
        death: forecast::death(socket, hz),
        silence_ms: heard(silence(sample)).map(millis),
        peer_probe_ms: heard(peer_probe(sample)).map(millis),
        last_data_ms: heard(last_data(sample)).map(millis),
        last_ack_ms: heard(last_ack(sample)).map(millis),
        zero_window_ms: heard(zero_window(sample))
            .filter(|_| sample.pending == pending::PROBE0 && !may_send(sample))
            .map(millis),
        not_accepted: is_not_accepted(socket),
        accept_queue: None,
        peer: None,
        probes_out: sample.probes_out.into(),
        receive_queue: socket.receive_queue,
        send_queue: socket.send_queue,
    }
}

/// Whether it waits in the accept queue of a listener: it has no file, and is not an orphan. The kernel makes
/// the file in `accept` (`sock_graft`). The subflows of an MPTCP connection have none of their own.
fn is_not_accepted(socket: &Snapshot) -> bool {
    let id = &socket.id;
    socket.kind == SnapshotKind::Socket
        && matches!(id.state, state::ESTABLISHED | state::CLOSE_WAIT)
        && id.inode == 0
        && !id.orphan
        && id.mptcp != Mptcp::Subflow
}

/// Whether the keepalive settings are known.
pub fn knows_settings(socket: &Snapshot) -> bool {
    socket.kind == SnapshotKind::Socket && socket.known.contains(Known::SETTINGS)
}

/// Whether the peer can have sent a segment.
pub fn is_connected(socket: &Snapshot) -> bool {
    !matches!(
        socket.id.state,
        state::CLOSE | state::LISTEN | state::SYN_SENT
    )
}

/// All armed timers, in the order in which they are due.
pub fn timers(socket: &Snapshot, hz: u32) -> Vec<RunningTimer> {
    let sample = &socket.sample;
    let timer = |kind, expires: u64, retries: u8| RunningTimer {
        kind,
        in_ms: left(sample, expires, hz),
        retries: retries.into(),
    };
    let write = match sample.pending {
        pending::RETRANS => Some((TimerKind::Retransmit, sample.retransmits)),
        pending::LOSS_PROBE => Some((TimerKind::LossProbe, 0)),
        pending::REO_TIMEOUT => Some((TimerKind::Reorder, 0)),
        pending::PROBE0 if may_send(sample) => Some((TimerKind::SendRetry, sample.probes_out)),
        pending::PROBE0 => Some((TimerKind::WindowProbe, sample.probes_out)),
        _ => None,
    };
    let shared = sample.timer_pending.then_some(match socket.kind {
        SnapshotKind::Socket | SnapshotKind::TimeWait if is_fin_wait2(socket) => {
            (TimerKind::FinWait2, 0)
        }
        SnapshotKind::TimeWait => (TimerKind::TimeWait, 0),
        SnapshotKind::Request => (TimerKind::SynAck, sample.retransmits),
        SnapshotKind::Socket => (TimerKind::Keepalive, sample.probes_out),
    });
    let delack = socket.delack_pending.then_some((TimerKind::DelayedAck, 0));
    let mut timers: Vec<RunningTimer> = [
        (write, socket.write_expires),
        (shared, sample.expires),
        (delack, socket.delack_expires),
    ]
    .into_iter()
    .filter_map(|(running, expires)| running.map(|(kind, retries)| timer(kind, expires, retries)))
    .collect();
    timers.sort_by_key(|timer| timer.in_ms);
    timers
}

/// The timer in the keepalive timer's place is an orphan's FIN_WAIT2 timer: of a full socket, or of the
/// small one that replaces it if it waits no longer than TIME_WAIT would (`tcp_time_wait`).
fn is_fin_wait2(socket: &Snapshot) -> bool {
    socket.id.state == state::FIN_WAIT2
        && (socket.id.orphan || socket.kind == SnapshotKind::TimeWait)
}

/// Whether the kernel reported the owner's user id: not in TIME_WAIT, and by sock_diag not for a socket
/// that is not yet established.
fn has_uid(socket: &Snapshot) -> bool {
    match socket.kind {
        SnapshotKind::TimeWait => false,
        SnapshotKind::Request => socket.known.contains(Known::ALL_TIMERS),
        SnapshotKind::Socket => true,
    }
}

pub fn next_probe(socket: &Snapshot, hz: u32) -> Option<NextProbe> {
    let sample = &socket.sample;
    if socket.kind != SnapshotKind::Socket || !sample.timer_pending || is_fin_wait2(socket) {
        return None;
    }
    let timer_ms = left(sample, sample.expires, hz);
    // Without the settings the idle time that the kernel will compare is unknown.
    let (earliest_ms, blocked_by) = if !knows_settings(socket) {
        (None, None)
    } else if !probes(socket) {
        (None, Some(Blocker::TimerStops))
    } else {
        match arithmetic::earliest_probe(&Effective::new(&socket.settings, hz), sample) {
            Ok(jiffies) => (Some(jiffies_to_millis(jiffies, hz)), None),
            Err(blocker) => (None, Some(blocker)),
        }
    };
    Some(NextProbe {
        timer_ms,
        earliest_ms,
        blocked_by,
    })
}

/// Whether a run of the keepalive timer can do anything other than stop.
pub fn probes(socket: &Snapshot) -> bool {
    socket.id.keepopen && !matches!(socket.id.state, state::CLOSE | state::SYN_SENT)
}

/// Until a deadline, milliseconds; 0 if it has passed.
fn left(sample: &TcpSample, expires: u64, hz: u32) -> u64 {
    jiffies_to_millis(expires.saturating_sub(sample.jiffies), hz)
}

#[cfg(test)]
mod tests;
