//! Each rule: an example that fires it and, changed in one thing, one that does not.

use std::{net::IpAddr, sync::Arc};

use super::{middlebox::Expiry, *};
use crate::core::{
    arithmetic,
    event::{Cause, Endpoint, Family, ListedDeath, Origin, Process, RunningTimer, Socket, When},
};

mod places;
mod remedies;

const HOUR: u64 = 3_600_000;

pub fn keepalive() -> Keepalive {
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

/// A connection without a finding, silent for half a minute.
pub fn socket() -> ListedSocket {
    let end = |number| Endpoint {
        address: IpAddr::from([10, 0, 0, number]),
        port: number.into(),
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
        uid: Some(0),
        inode: Some(1),
        orphan: false,
        timers: Vec::new(),
        one_timer_only: false,
        next_probe: None,
        death: None,
        silence_ms: Some(30_000),
        last_data_ms: None,
        last_ack_ms: None,
        peer_probe_ms: None,
        zero_window_ms: None,
        not_accepted: false,
        accept_queue: None,
        peer: None,
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

/// What the rule of this name finds.
fn found(name: &str, socket: &ListedSocket, middlebox: Option<&Middlebox>) -> Option<Violation> {
    let plan = arithmetic::plan_of(socket, Some(250));
    let case = Case {
        socket,
        plan: plan.as_ref(),
        middlebox,
        silent_ms: HOUR,
        around: &Surroundings::default(),
    };
    let rule = RULES.iter().find(|rule| rule.name == name).unwrap();
    (rule.check)(&case)
}

/// The same socket, with its peer on the same host.
fn at_home(mut socket: ListedSocket) -> ListedSocket {
    socket.socket.peer.address = socket.socket.local.address;
    socket
}

/// Names of the rules that fire, with a middlebox of 350 s if `behind` is set.
fn fired(socket: &ListedSocket, behind: bool) -> Vec<&'static str> {
    let plan = arithmetic::plan_of(socket, Some(250));
    let middlebox = Middlebox {
        name: "aws-nlb".to_owned(),
        timeout_ms: 350_000,
        expiry: Expiry::ResetsNext,
        source: None,
    };
    let case = Case {
        socket,
        plan: plan.as_ref(),
        middlebox: behind.then_some(&middlebox),
        silent_ms: HOUR,
        around: &Surroundings::default(),
    };
    let fires = RULES.iter().filter(|rule| (rule.check)(&case).is_some());
    fires.map(|rule| rule.name).collect()
}

#[test]
fn a_sound_connection_breaks_no_rule() {
    assert!(fired(&socket(), false).is_empty());
    assert!(fired(&socket(), true).is_empty());
}

/// A rule without an example here has none that fires it.
#[test]
fn each_rule_fires_on_its_example() {
    let with = |change: fn(&mut Keepalive)| {
        let mut socket = socket();
        socket.keepalive.iter_mut().for_each(change);
        socket
    };
    let silent = |silence_ms| ListedSocket {
        keepalive: off(),
        silence_ms: Some(silence_ms),
        ..socket()
    };
    let retransmitting = ListedSocket {
        timers: vec![RunningTimer {
            kind: TimerKind::Retransmit,
            in_ms: 1,
            retries: 3,
        }],
        ..socket()
    };
    let examples = [
        ("zombie_suspect", silent(HOUR)),
        (
            "late_for_middlebox",
            with(|keepalive| keepalive.time_ms = 350_000),
        ),
        ("suppressed", retransmitting),
        ("close_wait", places::close_wait()),
        ("not_accepted", places::not_accepted()),
        ("not_read", places::not_read()),
        (
            "count_ignored",
            with(|keepalive| keepalive.user_timeout_ms = 70_000),
        ),
        ("no_keepalive", silent(60_000)),
        ("only_peer_probes", places::probed()),
        (
            "user_timeout_late",
            with(|keepalive| keepalive.user_timeout_ms = 50_000),
        ),
        (
            "interval_above_idle",
            with(|keepalive| keepalive.interval_ms = 75_000),
        ),
        (
            "listener_without_keepalive",
            in_state(TcpState::Listen, off()),
        ),
    ];
    let names = examples.iter().map(|(name, _)| *name);
    assert!(names.eq(RULES.iter().map(|rule| rule.name)));
    for (name, socket) in &examples {
        let fires = [false, true].map(|behind| fired(socket, behind).contains(name));
        assert!(fires.contains(&true), "{name}");
    }
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
    assert!(fired(&at_home(zombie.clone()), false).is_empty());
    let remedy = found("zombie_suspect", &zombie, None).unwrap().remedy;
    assert!(
        remedy.contains("SO_KEEPALIVE = 1, TCP_KEEPIDLE = 60"),
        "{remedy}"
    );
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
    let with = |time_ms| ListedSocket {
        keepalive: Some(Keepalive {
            time_ms,
            ..keepalive()
        }),
        ..socket()
    };
    let late = with(350_000);
    assert_eq!(fired(&late, true), ["late_for_middlebox"]);
    assert!(fired(&late, false).is_empty(), "no middlebox");
    assert!(fired(&at_home(late.clone()), true).is_empty());
    let listener = in_state(TcpState::Listen, late.keepalive);
    assert!(fired(&listener, true).is_empty());
    // The timer wheel may delay it by 16.4 s.
    assert_eq!(fired(&with(340_000), true), ["late_for_middlebox"]);
    assert!(fired(&with(330_000), true).is_empty());
}

#[test]
fn no_probe_for_the_middlebox_at_all() {
    let off = ListedSocket {
        keepalive: off(),
        ..socket()
    };
    assert_eq!(fired(&off, true), ["late_for_middlebox"]);
    let nlb = Middlebox {
        name: "aws-nlb".to_owned(),
        timeout_ms: 350_000,
        expiry: Expiry::ResetsNext,
        source: Some("AWS"),
    };
    let postgres = ListedSocket {
        process: Some(Arc::new(Process {
            pid: 1,
            comm: "postgres".into(),
        })),
        ..off
    };
    let found = found("late_for_middlebox", &postgres, Some(&nlb)).unwrap();
    assert_eq!(
        found.evidence,
        "SO_KEEPALIVE off, aws-nlb drops idle connections after 350 s (AWS)"
    );
    assert!(
        found.remedy.contains("tcp_keepalives_idle = 175"),
        "{}",
        found.remedy
    );
}

/// The remedy names the place where the option is set now.
#[test]
fn a_remedy_follows_the_origin() {
    let with = |time_origin| ListedSocket {
        keepalive: Some(Keepalive {
            time_ms: 7_200_000,
            time_origin,
            ..keepalive()
        }),
        ..socket()
    };
    let middlebox = Middlebox {
        name: "it".to_owned(),
        timeout_ms: 350_000,
        expiry: Expiry::ResetsNext,
        source: None,
    };
    let remedy = |origin| {
        found("late_for_middlebox", &with(origin), Some(&middlebox))
            .unwrap()
            .remedy
    };
    assert!(!remedy(Some(Origin::Socket)).contains("sysctl"));
    assert!(remedy(Some(Origin::Sysctl)).contains("net.ipv4.tcp_keepalive_time=175"));
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
        death: Some(ListedDeath {
            in_ms: 90_000,
            rule: Cause::RetransmitTimeout,
            is_estimate: true,
        }),
        ..socket()
    };
    assert_eq!(fired(&stuck, false), ["suppressed"]);
    let consequence = |socket: &ListedSocket| {
        let found = found("suppressed", socket, None).unwrap();
        found.consequence
    };
    let text = consequence(&stuck);
    assert!(text.contains("in about 90 s, by tcp_retries2 15"), "{text}");
    let timed = ListedSocket {
        keepalive: Some(Keepalive {
            user_timeout_ms: 90_000,
            ..keepalive()
        }),
        death: Some(ListedDeath {
            in_ms: 90_000,
            rule: Cause::RetransmitUserTimeout,
            is_estimate: false,
        }),
        ..stuck.clone()
    };
    let text = consequence(&timed);
    assert!(text.contains("in 90 s, by TCP_USER_TIMEOUT"), "{text}");
    let orphan = ListedSocket {
        orphan: true,
        death: Some(ListedDeath {
            in_ms: 90_000,
            rule: Cause::OrphanTimeout,
            is_estimate: true,
        }),
        ..stuck
    };
    let text = consequence(&orphan);
    assert!(text.contains("about 90 s, by tcp_orphan_retries"), "{text}");
    let losing = ListedSocket {
        timers: vec![timer(2)],
        ..socket()
    };
    assert!(fired(&losing, false).is_empty());
}

/// Idle 60 s, interval 10 s, count 3.
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
    // Far later than the end by the count: 54 probes.
    let long = found("count_ignored", &with(600_000), None).unwrap();
    assert!(
        long.consequence.contains("only after 5"),
        "{}",
        long.consequence
    );
    assert!(
        long.remedy.contains("TCP_USER_TIMEOUT = 90000"),
        "{}",
        long.remedy
    );
    // Timers of two hours may be late by more than an interval: the count may or may not be reached.
    let slow = ListedSocket {
        keepalive: Some(Keepalive {
            time_ms: 7_200_000,
            user_timeout_ms: 7_215_000,
            ..keepalive()
        }),
        ..socket()
    };
    let slow = found("count_ignored", &slow, None).unwrap();
    assert!(slow.remedy.contains("= 7230000"), "{}", slow.remedy);
}

#[test]
fn a_user_timeout_that_is_not_kept() {
    let with = |user_timeout_ms| ListedSocket {
        keepalive: Some(Keepalive {
            user_timeout_ms,
            probes: 1,
            ..keepalive()
        }),
        ..socket()
    };
    assert_eq!(fired(&with(50_000), false), ["user_timeout_late"]);
    // At 70 s, the earliest possible end.
    assert!(fired(&with(70_000), false).is_empty());
    // At 70 s as well, which is less than an eighth more.
    assert!(fired(&with(65_000), false).is_empty());
    let remedy = found("user_timeout_late", &with(50_000), None)
        .unwrap()
        .remedy;
    assert!(
        remedy.contains("TCP_KEEPIDLE = 25") && remedy.contains("TCP_KEEPINTVL = 5"),
        "{remedy}"
    );
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
