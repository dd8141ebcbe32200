//! The exact text of the table.

use std::net::IpAddr;

use super::*;
use crate::core::event::{
    Blocker, Endpoint, Family, Incomplete, IncompletePart, Keepalive, ListedNamespace, NextProbe,
    Origin, Process, RefusedSource, RunningTimer, Socket, Sysctls, TcpState, TimerKind, When,
};

fn endpoint_of(address: &str, port: u16) -> Endpoint {
    let address: IpAddr = address.parse().unwrap();
    Endpoint { address, port }
}

fn when() -> When {
    When {
        timestamp: jiff::Timestamp::UNIX_EPOCH,
        monotonic_ns: 0,
    }
}

/// Idle 60 s of its own.
fn keepalive_60() -> Keepalive {
    Keepalive {
        enabled: true,
        time_ms: 60_000,
        time_origin: Some(Origin::Socket),
        interval_ms: 75_000,
        interval_origin: Some(Origin::Sysctl),
        probes: 9,
        probes_origin: None,
        user_timeout_ms: 20_500,
    }
}

fn socket() -> ListedSocket {
    ListedSocket {
        when: when(),
        socket: Socket {
            id: 1,
            cookie: None,
            family: Family::Ipv4,
            local: endpoint_of("10.0.0.1", 22),
            peer: endpoint_of("10.0.0.7", 37_409),
            state: TcpState::Established,
            netns: 4_026_531_840,
            mptcp: None,
        },
        process: Some(std::sync::Arc::new(Process {
            pid: 1036,
            comm: "ss\u{1b}hd".to_owned(),
        })),
        pids: vec![1036, 1040],
        cgroup: None,
        container_id: None,
        keepalive: Some(keepalive_60()),
        retries2: Some(15),
        rto_max_ms: Some(120_000),
        uid: Some(0),
        inode: Some(1),
        orphan: false,
        timers: vec![
            RunningTimer {
                kind: TimerKind::Retransmit,
                in_ms: 200,
                retries: 2,
            },
            RunningTimer {
                kind: TimerKind::Keepalive,
                in_ms: 59_100,
                retries: 0,
            },
        ],
        one_timer_only: false,
        next_probe: Some(NextProbe {
            timer_ms: 59_100,
            earliest_ms: None,
            blocked_by: Some(Blocker::DataInFlight),
        }),
        death: None,
        silence_ms: Some(900),
        last_data_ms: None,
        last_ack_ms: None,
        peer_probe_ms: None,
        zero_window_ms: None,
        not_accepted: false,
        accept_queue: None,
        peer: None,
        probes_out: 0,
        receive_queue: 0,
        send_queue: 100,
    }
}

fn end() -> ListEnd {
    ListEnd {
        when: when(),
        source: ListSource::SockDiag,
        refused: vec![RefusedSource {
            source: ListSource::Iterator,
            reason: "run as root".to_owned(),
        }],
        sockets: 2,
        namespaces: vec![ListedNamespace {
            netns: 7,
            sockets: 2,
            sysctl: Some(Sysctls {
                time_ms: 7_200_000,
                interval_ms: 75_000,
                probes: 9,
                retries2: 15,
            }),
        }],
        incomplete: vec![Incomplete {
            what: IncompletePart::Owner,
            count: 1,
            reason: "/proc is hidden".to_owned(),
        }],
    }
}

/// The table of these sockets, in columns that fit.
fn table(shown: Shown, sockets: &[ListedSocket]) -> String {
    let mut columns = Columns::new(shown);
    for socket in sockets {
        columns.fit(socket);
    }
    let style = Style::Table(columns);
    let mut text = Text::default();
    header(style, false, false, &mut text);
    for socket in sockets {
        super::socket(style, socket.clone(), &mut text).unwrap();
    }
    super::end(style, end(), &mut text).unwrap();
    String::from_utf8(text.bytes().to_vec()).unwrap()
}

#[test]
fn the_table() {
    let plain = ListedSocket {
        process: None,
        pids: Vec::new(),
        keepalive: None,
        timers: vec![RunningTimer {
            kind: TimerKind::Retransmit,
            in_ms: 3_600_000,
            retries: 0,
        }],
        one_timer_only: true,
        next_probe: Some(NextProbe {
            timer_ms: 2_000,
            earliest_ms: Some(7_050),
            blocked_by: None,
        }),
        silence_ms: None,
        ..socket()
    };
    let shown = Shown {
        owner: true,
        ..Shown::default()
    };
    let expected = "\
STATE       RECV-Q SEND-Q  LOCAL        PEER            KEEPALIVE            TIMERS                              NEXT PROBE         SILENT  OWNER
ESTABLISHED      0    100  10.0.0.1:22  10.0.0.7:37409  60*/75/9 ut 20.500*  retransmit 200ms #2, keepalive 59s  data in flight      900ms  ss\\u{1b}hd/1036 +1
ESTABLISHED      0    100  10.0.0.1:22  10.0.0.7:37409  ?                    retransmit 60m0s +?                 7.0s (timer 2.0s)       -  ?

2 sockets, from sock_diag (+? = the kernel reports one timer, others may run)
BPF iterator is refused: run as root
netns 7: 2 sockets, tcp_keepalive_time 7200, tcp_keepalive_intvl 75, tcp_keepalive_probes 9, tcp_retries2 15
unknown: owner (1): /proc is hidden
";
    assert_eq!(table(shown, &[socket(), plain]), expected);
}

/// `?` is an unknown value, `-` is a value that does not exist.
#[test]
fn the_wide_table() {
    let off = |keepalive: Option<Keepalive>| Keepalive {
        enabled: false,
        ..keepalive.unwrap()
    };
    let in_container = ListedSocket {
        keepalive: socket().keepalive.map(|keepalive| off(Some(keepalive))),
        container_id: Some("0123456789abcdef".into()),
        process: Some(std::sync::Arc::new(Process {
            pid: 1040,
            comm: "worker".to_owned(),
        })),
        timers: Vec::new(),
        next_probe: None,
        ..socket()
    };
    let mut small = ListedSocket {
        process: None,
        pids: Vec::new(),
        keepalive: None,
        inode: None,
        next_probe: None,
        silence_ms: None,
        cgroup: Some(std::sync::Arc::new(crate::core::event::Cgroup {
            id: 7,
            path: Some("/system.slice/\u{7}".to_owned()),
        })),
        timers: vec![RunningTimer {
            kind: TimerKind::TimeWait,
            in_ms: 60_000,
            retries: 0,
        }],
        ..socket()
    };
    small.socket.state = TcpState::TimeWait;
    let shown = Shown {
        netns: true,
        owner: true,
        wide: true,
    };
    let expected = "\
STATE       RECV-Q SEND-Q  LOCAL        PEER            KEEPALIVE       TIMERS         NEXT PROBE  SILENT       NETNS  OWNER                   CGROUP
ESTABLISHED      0    100  10.0.0.1:22  10.0.0.7:37409  off ut 20.500*  -              -            900ms  4026531840  worker/1040,1036        container 0123456789ab
TIME_WAIT        0    100  10.0.0.1:22  10.0.0.7:37409  -               time_wait 60s  -                -  4026531840  -                       /system.slice/\\u{7}
";
    let table = table(shown, &[in_container, small]);
    assert_eq!(table.split("\n\n").next().unwrap(), expected.trim_end());
}

/// The peer's window is closed on 7 MB.
#[test]
fn columns_fit_long_queues() {
    let stuck = ListedSocket {
        send_queue: 7_340_032,
        ..socket()
    };
    let table = table(Shown::default(), &[stuck, socket()]);
    let lines: Vec<&str> = table.lines().take(3).collect();
    assert!(lines[0].starts_with("STATE       RECV-Q  SEND-Q  LOCAL"));
    assert!(lines[1].starts_with("ESTABLISHED      0 7340032  10.0.0.1:22"));
    assert!(lines[2].starts_with("ESTABLISHED      0     100  10.0.0.1:22"));
}

#[test]
fn short_times() {
    for (ms, expected) in [
        (0, "0ms"),
        (999, "999ms"),
        (1_000, "1.0s"),
        (9_999, "9.9s"),
        (75_000, "75s"),
        (100_000, "1m40s"),
        (7_199_000, "1h59m"),
        (200_000_000, "2d7h"),
    ] {
        let mut text = Text::default();
        brief(ms, &mut text);
        assert_eq!(text.bytes(), expected.as_bytes());
    }
}
