//! Each rule: an example that fires it and, changed in one thing, one that does not.

use std::net::IpAddr;

use super::*;
use crate::{
    arithmetic,
    event::{Endpoint, Family, Origin, RunningTimer, Socket, When},
};

const HOUR: u64 = 3_600_000;

fn keepalive() -> Keepalive {
    Keepalive {
        enabled: true,
        time_ms: 60_000,
        time_origin: Some(Origin::Socket),
        interval_ms: 10_000,
        interval_origin: Some(Origin::Socket),
        probes: 3,
        probes_origin: Some(Origin::Socket),
        user_timeout_ms: 0,
    }
}

fn off() -> Option<Keepalive> {
    Some(Keepalive {
        enabled: false,
        ..keepalive()
    })
}

/// A sound connection, silent for half a minute.
fn socket() -> ListedSocket {
    let end = |port| Endpoint {
        address: IpAddr::from([127, 0, 0, 1]),
        port,
    };
    ListedSocket {
        when: When {
            timestamp: jiff::Timestamp::UNIX_EPOCH,
            monotonic_ns: 0,
        },
        socket: Socket {
            id: 1,
            cookie: None,
            family: Family::Ipv4,
            local: end(1),
            peer: end(2),
            state: TcpState::Established,
            netns: 1,
            mptcp: None,
        },
        process: None,
        pids: Vec::new(),
        cgroup: None,
        container_id: None,
        keepalive: Some(keepalive()),
        retries2: Some(15),
        rto_max_ms: Some(120_000),
        uid: 0,
        inode: Some(1),
        orphan: false,
        timers: Vec::new(),
        one_timer_only: false,
        next_probe: None,
        death: None,
        silence_ms: Some(30_000),
        last_data_ms: None,
        last_ack_ms: None,
        probes_out: 0,
        receive_queue: 0,
        send_queue: 0,
    }
}

fn in_state(state: TcpState, keepalive: Option<Keepalive>) -> ListedSocket {
    let mut socket = socket();
    socket.socket.state = state;
    socket.keepalive = keepalive;
    socket
}

/// Names of the rules that fire, with a middlebox of 350 s if `behind` one.
fn fired(socket: &ListedSocket, behind: bool) -> Vec<&'static str> {
    let plan = arithmetic::plan_of(socket, Some(250));
    let middlebox: Middlebox = "aws-nlb".parse().unwrap();
    let case = Case {
        socket,
        plan: plan.as_ref(),
        middlebox: behind.then_some(&middlebox),
        silent_ms: HOUR,
    };
    let fires = RULES.iter().filter(|rule| (rule.check)(&case).is_some());
    fires.map(|rule| rule.name).collect()
}

#[test]
fn a_sound_connection_breaks_no_rule() {
    assert!(fired(&socket(), false).is_empty());
    assert!(fired(&socket(), true).is_empty());
}

#[test]
fn zombies() {
    let zombie = ListedSocket {
        keepalive: off(),
        silence_ms: Some(HOUR),
        ..socket()
    };
    assert_eq!(fired(&zombie, false), ["zombie_suspect"]);
    let guarded = ListedSocket {
        keepalive: Some(keepalive()),
        ..zombie.clone()
    };
    assert!(fired(&guarded, false).is_empty());
    let orphan = ListedSocket {
        orphan: true,
        ..zombie
    };
    assert!(fired(&orphan, false).is_empty(), "the kernel ends it");
}

#[test]
fn idle_without_keepalive() {
    let idle = ListedSocket {
        keepalive: off(),
        silence_ms: Some(60_000),
        ..socket()
    };
    assert_eq!(fired(&idle, false), ["no_keepalive"]);
    let busy = ListedSocket {
        silence_ms: Some(59_999),
        ..idle
    };
    assert!(fired(&busy, false).is_empty());
}

#[test]
fn too_late_for_the_middlebox() {
    let late = ListedSocket {
        keepalive: Some(Keepalive {
            time_ms: 350_000,
            ..keepalive()
        }),
        ..socket()
    };
    assert_eq!(fired(&late, true), ["late_for_middlebox"]);
    assert!(fired(&late, false).is_empty(), "nothing is between");
    let listener = in_state(TcpState::Listen, late.keepalive);
    assert!(fired(&listener, true).is_empty());
}

#[test]
fn suppressed_by_retransmission() {
    let timer = |retries| RunningTimer {
        kind: TimerKind::Retransmit,
        in_ms: 1,
        retries,
    };
    let stuck = ListedSocket {
        timers: vec![timer(3)],
        ..socket()
    };
    assert_eq!(fired(&stuck, false), ["suppressed"]);
    let losing = ListedSocket {
        timers: vec![timer(2)],
        ..socket()
    };
    assert!(fired(&losing, false).is_empty());
}

#[test]
fn a_count_that_is_ignored() {
    let with = |user_timeout_ms| ListedSocket {
        keepalive: Some(Keepalive {
            user_timeout_ms,
            ..keepalive()
        }),
        ..socket()
    };
    assert_eq!(fired(&with(70_000), false), ["count_ignored"]);
    assert!(fired(&with(90_000), false).is_empty());
    let late = ["count_ignored", "user_timeout_late"];
    assert_eq!(fired(&with(60_000), false), late);
}

#[test]
fn a_user_timeout_that_is_not_kept() {
    let one = ListedSocket {
        keepalive: Some(Keepalive {
            user_timeout_ms: 50_000,
            probes: 1,
            ..keepalive()
        }),
        ..socket()
    };
    assert_eq!(fired(&one, false), ["user_timeout_late"]);
}

#[test]
fn an_interval_above_the_idle_time() {
    let with = |interval_ms| ListedSocket {
        keepalive: Some(Keepalive {
            interval_ms,
            ..keepalive()
        }),
        ..socket()
    };
    assert_eq!(fired(&with(75_000), false), ["interval_above_idle"]);
    assert!(fired(&with(60_000), false).is_empty());
}

#[test]
fn listeners() {
    let listener = in_state(TcpState::Listen, off());
    assert_eq!(fired(&listener, false), ["listener_without_keepalive"]);
    let tuned = in_state(TcpState::Listen, Some(keepalive()));
    assert!(fired(&tuned, false).is_empty());
}

#[test]
fn namespaces() {
    let host = Sysctls {
        time_ms: 7_200_000,
        interval_ms: 75_000,
        probes: 9,
        retries2: 15,
    };
    assert_eq!(namespace_sysctls(&host, &host), None);
    let tuned = Sysctls {
        time_ms: 60_000,
        ..host
    };
    let found = namespace_sysctls(&host, &tuned).unwrap();
    assert_eq!(
        found.evidence,
        "tcp_keepalive_time is 7200, the host's is 60"
    );
}
