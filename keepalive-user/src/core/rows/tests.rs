//! Rows of sockets in each situation.

use keepalive_ebpf::{Identity, Settings};

use super::*;
use crate::core::event::{Cause, ListedDeath};

fn death(socket: &Snapshot, hz: u32) -> Option<ListedDeath> {
    forecast::death(socket, hz)
}

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
    (socket.id.orphan, socket.sample.orphan) = (true, true);
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
