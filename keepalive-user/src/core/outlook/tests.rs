//! What a socket still shows of its last timer run, and the predicted end in words.

use keepalive_ebpf::{Identity, Known, Settings, Snapshot, SnapshotKind, TcpSample};

use super::*;
use crate::core::{
    clock::Clock,
    event::{IdleCloses, Span, Sysctls},
    kernel::{pending, state},
    rows,
    target::Target,
};
use crate::output::explain as output;

const HZ: u32 = 250;
const NOW: u32 = 100_000;

/// Idle 10 s by sysctl, interval 2 s, count 3; the timer is due in `due` ticks, the last segment from
/// the peer is `silent` ticks old.
fn socket(due: u32, silent: u32, change: impl FnOnce(&mut Snapshot)) -> ListedSocket {
    let mut socket = Snapshot {
        id: Identity {
            state: state::ESTABLISHED,
            keepopen: true,
            netns: 7,
            ..Identity::default()
        },
        settings: Settings {
            interval: 2 * HZ,
            sysctl_time: 10 * HZ,
            sysctl_interval: 75 * HZ,
            sysctl_probes: 3,
            sysctl_retries2: 15,
            ..Settings::default()
        },
        sample: TcpSample {
            jiffies: NOW.into(),
            expires: (NOW + due).into(),
            timer_pending: true,
            rcv_tstamp: NOW - silent,
            rto: HZ / 5,
            ..TcpSample::default()
        },
        kind: SnapshotKind::Socket,
        known: Known::SETTINGS | Known::ORIGINS | Known::ALL_TIMERS | Known::TRAFFIC,
        ..Snapshot::default()
    };
    change(&mut socket);
    rows::row(&socket, 1, HZ, &Clock { offset_ns: 0 })
}

fn sysctls(time_ms: u64) -> Sysctls {
    Sysctls {
        time_ms,
        interval_ms: 75_000,
        probes: 3,
        retries2: 15,
    }
}

fn text(found: &ListedSocket) -> String {
    text_with(found, None)
}

fn text_with(found: &ListedSocket, owner_closes: Option<IdleCloses>) -> String {
    let none = IdleCloses {
        watched_ms: 30_000,
        closed: 0,
        idle_ms: None,
    };
    let explanation = Explanation {
        owner_closes,
        peer_closes: owner_closes.map(|_| none),
        ..explain(
            found,
            Some(sysctls(10_000)),
            Some(sysctls(60_000)),
            crate::machine::clock::hz(),
        )
    };
    let mut bytes = Vec::new();
    output::text(&explanation, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_last_run() {
    let last = |found: &ListedSocket| last_run(found).map(|run| (run.ago_ms, run.action));
    let probing = socket(HZ, 15 * HZ, |socket| socket.sample.probes_out = 2);
    assert_eq!(last(&probing), Some((1000, LastAction::ProbeSent)));
    let answered = socket(HZ, HZ, |_| {});
    assert_eq!(last(&answered), Some((1000, LastAction::ProbeAnswered)));
    let armed = socket(4 * HZ, HZ, |_| {});
    assert_eq!(last(&armed), Some((6000, LastAction::Armed)));
    // Set for the rest of the idle time, or for an interval: ambiguous.
    let either = socket(HZ, 9 * HZ, |_| {});
    assert_eq!(last(&either), None);
    let off = socket(HZ, HZ, |socket| socket.id.keepopen = false);
    assert_eq!(last(&off), None);
}

#[test]
fn the_end_in_words() {
    let idle = text(&socket(4 * HZ, HZ, |_| {}));
    // First probe in 9 s, three in all.
    let sentence =
        "Unless a segment from the peer arrives the connection ends in 15 s, by TCP_KEEPCNT 3.";
    assert!(idle.contains(sentence), "{idle}");
    let dying = text(&socket(HZ, 15 * HZ, |socket| socket.sample.probes_out = 3));
    let sentence =
        "3 probes of 3 unanswered; the next run of the timer, in 1 s, ends the connection.";
    assert!(dying.contains(sentence), "{dying}");
    let stuck = text(&socket(HZ, HZ, |socket| {
        (socket.sample.packets_out, socket.sample.pending) = (1, pending::RETRANS);
        socket.write_expires = u64::from(NOW + HZ / 5);
        socket.settings.user_timeout = 20_000;
    }));
    let sentence =
        "Unless the data is acknowledged the connection ends in 20.2 s, by TCP_USER_TIMEOUT 20 s.";
    assert!(stuck.contains(sentence), "{stuck}");
    let orphan = text(&socket(HZ, HZ, |socket| {
        (socket.sample.packets_out, socket.sample.pending) = (1, pending::RETRANS);
        (socket.id.orphan, socket.sample.orphan) = (true, true);
        // The default, 0.
        socket.settings.sysctl_orphan_retries = 1;
    }));
    let sentence = "Unless the data is acknowledged the connection ends in about 204.4 s, by tcp_orphan_retries.";
    assert!(orphan.contains(sentence), "{orphan}");
    assert!(!orphan.contains("tcp_retries2"), "{orphan}");
}

/// The host's value is printed only where a sysctl is in force.
#[test]
fn the_hosts_sysctls_are_not_these() {
    let sentence =
        "tcp_keepalive_time is 10 here and 60 on the host: the host's sysctls have no effect";
    let printed = text(&socket(HZ, HZ, |_| {}));
    assert!(printed.contains(sentence), "{printed}");
    let own = text(&socket(HZ, HZ, |socket| socket.settings.time = 10 * HZ));
    assert!(!own.contains("the host's"), "{own}");
}

#[test]
fn a_socket_without_settings_needs_no_root() {
    let request = socket(HZ, HZ, |socket| {
        socket.kind = SnapshotKind::TimeWait;
        socket.id.state = state::TIME_WAIT;
    });
    let printed = text(&request);
    assert!(
        printed.contains("A socket in this state has no keepalive settings"),
        "{printed}"
    );
    let unknown = text(&socket(HZ, HZ, |socket| socket.known = Known::TRAFFIC));
    assert!(unknown.contains("needs root"), "{unknown}");
}

/// Idle 10 s: an owner that closes sooner is the reason why no probe is sent.
#[test]
fn the_owner_closes_first() {
    let after = |least, most| {
        let closes = IdleCloses {
            watched_ms: 30_000,
            closed: 2,
            idle_ms: Some(Span { least, most }),
        };
        text_with(&socket(HZ, HZ, |_| {}), Some(closes))
    };
    let sentence = "Watched for 30 s: the owner closed 2 such connections first, 3 s to 5 s after the last \
                    data was received, before the first probe is due (10 s): therefore no probe is sent.";
    let soon = after(3_000, 5_000);
    assert!(soon.contains(sentence), "{soon}");
    let late = after(3_000, 15_000);
    assert!(!late.contains("therefore"), "{late}");
    let closes = IdleCloses {
        watched_ms: 30_000,
        closed: 0,
        idle_ms: None,
    };
    let never = text_with(&socket(HZ, HZ, |_| {}), Some(closes));
    assert!(
        never.contains("neither side closed such a connection"),
        "{never}"
    );
}

#[test]
fn the_capture_filter_names_each_end_once() {
    let mapped = |last| {
        let mut address = [0; 16];
        address[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, last]);
        address
    };
    let filter = |local_port, peer_port, peer| {
        let found = socket(10, 10, |socket| {
            let id = &mut socket.id;
            (id.local, id.peer) = (mapped(1), mapped(peer));
            (id.local_port, id.peer_port) = (local_port, peer_port);
        });
        capture_filter(&found)
    };
    let begins = |text: String, beginning: &str| assert!(text.starts_with(beginning), "{text}");
    begins(
        filter(22, 50_000, 1),
        "ip and tcp and host 127.0.0.1 and port 22 and port 50000 and ip[",
    );
    begins(
        filter(22, 22, 2),
        "ip and tcp and host 127.0.0.1 and host 127.0.0.2 and port 22 and ip[",
    );
}

#[test]
fn connections_are_preferred_and_the_matched_end_is_printed() {
    let found = |index: usize, state, ports: (u16, u16)| {
        let row = socket(10, 10, |socket| {
            socket.id.state = state;
            (socket.id.local_port, socket.id.peer_port) = ports;
        });
        (index, row)
    };
    let left = |target: &str, mut named: Vec<(usize, ListedSocket)>| {
        let target: Target = target.parse().unwrap();
        target.prefer_connections(&mut named);
        let indices = named.iter().map(|(index, _)| *index);
        indices.collect::<Vec<_>>()
    };
    let listener = || found(0, state::LISTEN, (22, 0));
    let accepted = || found(1, state::ESTABLISHED, (22, 50_000));
    assert_eq!(left(":22", vec![listener(), accepted()]), [1]);
    assert_eq!(left("4711", vec![listener(), accepted()]), [1]);
    assert_eq!(left(":22", vec![listener()]), [0]);
    assert_eq!(left("sk:1", vec![listener(), accepted()]), [0, 1]);
    let matched = |target: &str| {
        let explanation = Explanation {
            matched: target
                .parse::<Target>()
                .unwrap()
                .matched(&accepted().1.socket),
            socket: Some(Box::new(accepted().1)),
            ..Explanation::default()
        };
        let mut bytes = Vec::new();
        output::text(&explanation, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert!(
        matched(":22").contains("its local end, "),
        "{}",
        matched(":22")
    );
    assert!(matched(":50000").contains("its peer, "));
    assert!(matched("[::]:50000").contains("its peer, "));
    assert!(!matched("4711").contains("named end"));
}
