//! From a [`Snapshot`] to the row that is output. Pure.

use keepalive_ebpf::{Known, Snapshot, SnapshotKind, TcpSample};

use crate::core::{
    arithmetic::{self, Effective, jiffies_to_millis},
    clock::Clock,
    convert,
    event::{Blocker, ListedDeath, ListedSocket, NextProbe, RunningTimer, TimerKind},
    kernel::{pending, state},
    sample::{last_ack, last_data, silence, unsent},
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
        death: death(socket, hz),
        silence_ms: heard(silence(sample)).map(millis),
        last_data_ms: heard(last_data(sample)).map(millis),
        last_ack_ms: heard(last_ack(sample)).map(millis),
        probes_out: sample.probes_out.into(),
        receive_queue: socket.receive_queue,
        send_queue: socket.send_queue,
    }
}

/// Whether the keepalive settings are known.
pub fn knows_settings(socket: &Snapshot) -> bool {
    socket.kind == SnapshotKind::Socket && socket.known.contains(Known::SETTINGS)
}

/// Whether the peer can have sent a segment.
fn is_connected(socket: &Snapshot) -> bool {
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
fn probes(socket: &Snapshot) -> bool {
    socket.id.keepopen && !matches!(socket.id.state, state::CLOSE | state::SYN_SENT)
}

/// The end of the connection if nothing more is received, by the timer that applies now.
fn death(socket: &Snapshot, hz: u32) -> Option<ListedDeath> {
    let sample = &socket.sample;
    // `tcp_orphan_retries`, which ends a connection without an owner, is unknown.
    if !knows_settings(socket) || !is_connected(socket) || socket.id.orphan {
        return None;
    }
    let effective = Effective::new(&socket.settings, hz);
    let write = socket.write_expires.saturating_sub(sample.jiffies);
    let end = match sample.pending {
        pending::RETRANS => arithmetic::retransmit_end(&effective, sample, write, hz),
        // The time at which the window closed is unknown.
        pending::PROBE0
            if effective.user_timeout != 0
                && sample.probes_tstamp == 0
                && sample.probes_out > 0 =>
        {
            None
        }
        pending::PROBE0 => arithmetic::window_end(&effective, sample, write),
        _ if sample.packets_out == 0
            && unsent(sample) == 0
            && sample.timer_pending
            && probes(socket) =>
        {
            arithmetic::idle_end(&effective, sample)
        }
        _ => None,
    }?;
    Some(ListedDeath {
        in_ms: jiffies_to_millis(end.after, hz),
        rule: end.rule,
    })
}

/// Until a deadline, milliseconds; 0 if it has passed.
fn left(sample: &TcpSample, expires: u64, hz: u32) -> u64 {
    jiffies_to_millis(expires.saturating_sub(sample.jiffies), hz)
}

#[cfg(test)]
mod tests {
    use keepalive_ebpf::{Identity, Settings};

    use super::*;
    use crate::core::event::Cause;

    const HZ: u32 = 250;

    /// Idle for 3 s, timer in 2 s, keepalive time 10 s.
    fn socket() -> Snapshot {
        Snapshot {
            id: Identity {
                state: state::ESTABLISHED,
                keepopen: true,
                ..Identity::default()
            },
            settings: Settings {
                time: 10 * HZ,
                sysctl_time: 7200 * HZ,
                sysctl_interval: 75 * HZ,
                sysctl_probes: 9,
                ..Settings::default()
            },
            sample: TcpSample {
                jiffies: 100_000,
                expires: 100_000 + u64::from(2 * HZ),
                timer_pending: true,
                rcv_tstamp: 100_000 - 3 * HZ,
                lrcvtime: 100_000 - 5 * HZ,
                ..TcpSample::default()
            },
            kind: SnapshotKind::Socket,
            known: Known::SETTINGS | Known::ORIGINS | Known::ALL_TIMERS | Known::TRAFFIC,
            ..Snapshot::default()
        }
    }

    /// The timer will find the connection idle for only 5 of 10 s and wait for the rest.
    #[test]
    fn the_lazy_deadline_is_not_the_real_one() {
        let expected = NextProbe {
            timer_ms: 2000,
            earliest_ms: Some(7000),
            blocked_by: None,
        };
        assert_eq!(next_probe(&socket(), HZ), Some(expected));
    }

    #[test]
    fn data_blocks_a_probe() {
        let mut socket = socket();
        socket.sample.write_seq = 5;
        let next = next_probe(&socket, HZ).unwrap();
        assert_eq!(next.blocked_by, Some(Blocker::DataUnsent));
        socket.sample.packets_out = 1;
        let next = next_probe(&socket, HZ).unwrap();
        assert_eq!(next.blocked_by, Some(Blocker::DataInFlight));
        assert_eq!(next.earliest_ms, None);
        socket.known = Known::TRAFFIC;
        assert_eq!(next_probe(&socket, HZ).unwrap().blocked_by, None);
    }

    /// First probe in 7 s, nine in all, 75 s apart.
    #[test]
    fn the_end_of_an_idle_connection() {
        let end = death(&socket(), HZ).unwrap();
        assert_eq!(
            (end.in_ms, end.rule),
            (7_000 + 9 * 75_000, Cause::KeepaliveProbes)
        );
        let mut off = socket();
        off.id.keepopen = false;
        assert_eq!(death(&off, HZ), None);
        let next = next_probe(&off, HZ).unwrap();
        assert_eq!(next.blocked_by, Some(Blocker::TimerStops));
    }

    #[test]
    fn the_run_that_ends_the_connection_sends_no_probe() {
        let mut socket = socket();
        socket.sample.probes_out = 9;
        socket.sample.rcv_tstamp = 100_000_u32.wrapping_sub(700 * HZ);
        socket.sample.lrcvtime = socket.sample.rcv_tstamp;
        let next = next_probe(&socket, HZ).unwrap();
        assert_eq!(
            (next.earliest_ms, next.blocked_by),
            (None, Some(Blocker::ConnectionEnds))
        );
        assert_eq!(death(&socket, HZ).unwrap().in_ms, 2_000);
    }

    /// Independent of the keepalive settings: retransmission or the window decides, or the end is unknown.
    #[test]
    fn the_end_of_a_connection_that_is_not_idle() {
        let mut socket = socket();
        (
            socket.settings.user_timeout,
            socket.settings.sysctl_retries2,
        ) = (20_000, 15);
        (socket.sample.packets_out, socket.sample.rto) = (1, HZ);
        assert_eq!(death(&socket, HZ), None, "no timer runs");
        socket.sample.pending = pending::RETRANS;
        socket.write_expires = 100_000 + u64::from(HZ);
        let end = death(&socket, HZ).unwrap();
        assert_eq!(
            (end.in_ms, end.rule),
            (21_000, Cause::RetransmitUserTimeout)
        );
        socket.sample.pending = pending::PROBE0;
        socket.sample.probes_tstamp = 100_000 - 5 * HZ;
        let end = death(&socket, HZ).unwrap();
        assert_eq!(
            (end.in_ms, end.rule),
            (15_000, Cause::WindowProbeUserTimeout)
        );
        socket.id.orphan = true;
        assert_eq!(death(&socket, HZ), None);
    }

    #[test]
    fn shows_all_timers_in_order() {
        let mut socket = socket();
        socket.sample.pending = pending::RETRANS;
        socket.sample.retransmits = 4;
        socket.write_expires = 100_000 + 50;
        socket.delack_pending = true;
        socket.delack_expires = 99_000;
        let shown: Vec<_> = timers(&socket, HZ)
            .iter()
            .map(|timer| (timer.kind, timer.in_ms, timer.retries))
            .collect();
        assert_eq!(
            shown,
            [
                (TimerKind::DelayedAck, 0, 0),
                (TimerKind::Retransmit, 200, 4),
                (TimerKind::Keepalive, 2000, 0)
            ]
        );
    }

    #[test]
    fn an_orphan_in_fin_wait2_has_no_keepalive() {
        let mut socket = socket();
        socket.id.state = state::FIN_WAIT2;
        socket.id.orphan = true;
        assert_eq!(timers(&socket, HZ)[0].kind, TimerKind::FinWait2);
        assert_eq!(next_probe(&socket, HZ), None);
    }

    #[test]
    fn a_small_socket_in_fin_wait2_is_an_orphan() {
        let mut socket = socket();
        socket.id.state = state::FIN_WAIT2;
        socket.kind = SnapshotKind::TimeWait;
        let row = row(&socket, 1, HZ, &Clock { offset_ns: 0 });
        assert_eq!(row.timers[0].kind, TimerKind::FinWait2);
        assert_eq!((row.orphan, row.uid), (true, None));
    }

    #[test]
    fn a_small_socket_has_no_settings() {
        let clock = Clock { offset_ns: 0 };
        for (kind, timer) in [
            (SnapshotKind::TimeWait, TimerKind::TimeWait),
            (SnapshotKind::Request, TimerKind::SynAck),
        ] {
            let mut socket = socket();
            socket.kind = kind;
            let row = row(&socket, 1, HZ, &clock);
            assert_eq!(
                (row.keepalive, row.next_probe, row.silence_ms),
                (None, None, None)
            );
            assert_eq!(row.timers[0].kind, timer);
        }
    }
}
