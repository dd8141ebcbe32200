//! Remedies: of exactly the program, for its role, and such that the rule finds nothing afterwards.

mod page;

use std::{net::IpAddr, sync::Arc, time::Duration};

use keepalive_ebpf::Identity;

use super::*;
use crate::core::{
    event::{Process, TcpState},
    kernel::state,
    rules::{
        Case, Middlebox, RULES, Violation,
        middlebox::Expiry,
        tests::{keepalive, socket},
    },
};

fn of(comm: &str) -> ListedSocket {
    ListedSocket {
        process: Some(Arc::new(Process {
            pid: 7,
            comm: comm.into(),
        })),
        ..socket()
    }
}

fn off(comm: &str) -> ListedSocket {
    let mut socket = of(comm);
    socket.keepalive.as_mut().unwrap().enabled = false;
    socket
}

fn identity(state: u8, peer_port: u16) -> Identity {
    Identity {
        netns: 1,
        local_port: 1,
        peer_port,
        state,
        ..Identity::default()
    }
}

/// What surrounds [`socket`] as this end of the connection.
fn around(role: Role) -> Surroundings {
    let connection = identity(state::ESTABLISHED, 2);
    let others = match role {
        Role::Accepted | Role::Listens => vec![identity(state::LISTEN, 0)],
        Role::Opened => Vec::new(),
        Role::Unknown => vec![identity(state::ESTABLISHED, 3)],
    };
    Surroundings::new(Some(1), others.iter().chain([&connection]))
}

fn switched_on(socket: &ListedSocket, role: Role) -> String {
    let around = around(role);
    let patient = Patient {
        socket,
        around: &around,
    };
    assert_eq!(patient.around.role(socket), role);
    patient.switch_on(Advice::ORDINARY)
}

const GENERIC: &str =
    "setsockopt SO_KEEPALIVE = 1, TCP_KEEPIDLE = 60, TCP_KEEPINTVL = 10, TCP_KEEPCNT = 6";

#[test]
fn only_whole_names_match() {
    let others = [
        "node_exporter",
        "postgres_export",
        "redis-server-ex",
        "javascriptd",
        "pythonista",
        "ssh-agent",
        "sshfs",
        "nginx-prometheu",
        "envoy-gateway",
        "haproxy_exporte",
        "python3.11-dbg",
        "mysqld_exporter",
        "",
    ];
    for comm in others {
        for role in [Role::Accepted, Role::Opened, Role::Unknown] {
            assert_eq!(switched_on(&off(comm), role), GENERIC, "{comm}");
        }
    }
    let known = [
        ("python3.11", "SO_KEEPALIVE, 1)"),
        ("python", "TCP_KEEPIDLE, 60)"),
        ("redis-server", "`tcp-keepalive 60`"),
        ("valkey-server", "`tcp-keepalive 60`"),
        ("mariadbd", "`tcp_keepalive_time = 60`"),
        ("beam.smp", "`tcp_listen_options.keepalive = true`"),
        ("sshd-session", "`TCPKeepAlive yes`"),
        ("postgres", "`tcp_keepalives_idle = 60`"),
        ("node", "keepAliveInitialDelay: 60000"),
        ("systemd", "`KeepAliveTimeSec=60`"),
    ];
    for (comm, expected) in known {
        let remedy = switched_on(&off(comm), Role::Accepted);
        assert!(remedy.contains(expected), "{comm}: {remedy}");
    }
}

#[test]
fn names_fit_into_comm() {
    let names = programs::all().flat_map(|program| program.names);
    for name in names {
        assert!((1..=15).contains(&name.len()), "{name}");
    }
}

#[test]
fn each_role_has_its_setting() {
    let remedy = |role| switched_on(&off("nginx"), role);
    let (accepted, opened) = (remedy(Role::Accepted), remedy(Role::Opened));
    assert!(accepted.contains("`so_keepalive=60s:10s:6`"), "{accepted}");
    assert!(!accepted.contains("proxy_socket"), "{accepted}");
    assert!(opened.contains("`proxy_socket_keepalive on;`"), "{opened}");
    // The values of `socket` are 60, 10 and 3.
    assert!(
        opened.contains("`sysctl -w net.ipv4.tcp_keepalive_time=60 net.ipv4.tcp_keepalive_intvl=10 net.ipv4.tcp_keepalive_probes=6`"),
        "{opened}"
    );
    assert!(opened.contains(NEW_ONLY), "{opened}");
    let both = remedy(Role::Unknown);
    for part in [
        "if accepted: ",
        "so_keepalive=",
        "if opened by it: ",
        "proxy_socket",
    ] {
        assert!(both.contains(part), "{both}");
    }
    assert_eq!(switched_on(&off("redis-server"), Role::Opened), GENERIC);
}

/// Sysctls that are right already are not offered.
#[test]
fn sysctls_that_are_right_already() {
    let mut upstream = off("nginx");
    let keepalive = upstream.keepalive.as_mut().unwrap();
    keepalive.time_origin = Some(Origin::Sysctl);
    keepalive.interval_origin = Some(Origin::Sysctl);
    keepalive.probes_origin = Some(Origin::Sysctl);
    let remedy = switched_on(&upstream, Role::Opened);
    assert!(
        remedy.contains("sysctl -w net.ipv4.tcp_keepalive_probes=6`"),
        "{remedy}"
    );
    upstream.keepalive.as_mut().unwrap().probes = 6;
    let remedy = switched_on(&upstream, Role::Opened);
    assert!(
        remedy.contains("which have these values already"),
        "{remedy}"
    );
}

#[test]
fn libraries_by_their_port() {
    let to = |comm: &str, port: u16| {
        let mut socket = off(comm);
        socket.socket.peer.port = port;
        switched_on(&socket, Role::Opened)
    };
    assert!(to("worker", 5432).contains("`keepalives=1 keepalives_idle=60"));
    assert!(to("python3", 5432).contains("libpq"));
    assert!(to("java", 5432).contains("`tcpKeepAlive=true`"));
    assert!(to("java", 443).contains("ExtendedSocketOptions.TCP_KEEPIDLE, 60"));
    assert!(to("pgbouncer", 5432).contains("`tcp_keepidle = 60`"));
}

/// A sysctl of another namespace is set there.
#[test]
fn in_another_namespace() {
    let socket = off("sshd");
    let listener = identity(state::LISTEN, 0);
    let remedy = |here| {
        let around = Surroundings::new(Some(here), [&listener].into_iter());
        let patient = Patient {
            socket: &socket,
            around: &around,
        };
        patient.switch_on(Advice::ORDINARY)
    };
    assert!(remedy(1).contains("`sysctl -w net."), "{}", remedy(1));
    let other = remedy(2);
    assert!(other.contains("`nsenter -t 7 -n sysctl -w net."), "{other}");
}

/// Values of socket options as the generic remedy names them.
fn apply(remedy: &str, keepalive: &mut Keepalive) {
    let text = remedy
        .strip_prefix("setsockopt ")
        .unwrap_or_else(|| panic!("{remedy}"));
    let value = |option: &str| -> Option<u64> {
        let (_, rest) = text.split_once(&format!("{option} = "))?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    keepalive.enabled |= value("SO_KEEPALIVE") == Some(1);
    let idle = value("TCP_KEEPIDLE").inspect(|it| assert!((1..=32_767).contains(it)));
    let interval = value("TCP_KEEPINTVL").inspect(|it| assert!((1..=32_767).contains(it)));
    let differ = |new: Option<u64>, old: u64| assert_ne!(new, Some(old), "no effect: {remedy}");
    if keepalive.enabled && !text.contains("SO_KEEPALIVE") {
        differ(idle, keepalive.time_ms / 1000);
        differ(interval, keepalive.interval_ms / 1000);
    }
    keepalive.time_ms = idle.map_or(keepalive.time_ms, |s| s * 1000);
    keepalive.interval_ms = interval.map_or(keepalive.interval_ms, |s| s * 1000);
    keepalive.probes = value("TCP_KEEPCNT").map_or(keepalive.probes, |it| it as u32);
    keepalive.user_timeout_ms = value("TCP_USER_TIMEOUT").map_or(keepalive.user_timeout_ms, |it| {
        assert!(it <= 2_147_483_647, "{remedy}");
        it
    });
}

fn found(rule: &str, socket: &ListedSocket, middlebox: Option<&Middlebox>) -> Option<Violation> {
    let plan = arithmetic::plan_of(socket, Some(250));
    let case = Case {
        socket,
        plan: plan.as_ref(),
        middlebox,
        silent_ms: 3_600_000,
        around: &Surroundings::default(),
    };
    let rule = RULES.iter().find(|it| it.name == rule).unwrap();
    (rule.check)(&case)
}

/// Whatever is set, and whatever the timeout: applied, the finding is gone, and no other has come.
#[test]
fn applied_remedies_leave_no_finding() {
    let steps = [1, 2, 5, 60, 100, 175, 400, 7200, 32_767];
    let user_timeouts = [0, 4_000, 60_000, 2_147_483_647];
    let timeouts = [
        500,
        1_000,
        2_000,
        30_000,
        240_000,
        350_000,
        900_000,
        432_000_000,
    ];
    let mut applied = 0;
    for rule in [
        "late_for_middlebox",
        "interval_above_idle",
        "user_timeout_late",
        "count_ignored",
    ] {
        for (idle, interval) in steps.iter().flat_map(|a| steps.map(|b| (*a, b))) {
            for (user_timeout_ms, timeout) in
                user_timeouts.iter().flat_map(|a| timeouts.map(|b| (*a, b)))
            {
                let mut socket = socket();
                socket.keepalive = Some(Keepalive {
                    time_ms: idle * 1000,
                    interval_ms: interval * 1000,
                    user_timeout_ms,
                    ..keepalive()
                });
                let middlebox = Middlebox::unnamed(Duration::from_millis(timeout));
                let Some(violation) = found(rule, &socket, Some(&middlebox)) else {
                    continue;
                };
                if violation.remedy.starts_with("no keepalive setting")
                    || violation.remedy.contains("of at least 3000")
                {
                    continue;
                }
                apply(&violation.remedy, socket.keepalive.as_mut().unwrap());
                applied += 1;
                let left = found(rule, &socket, Some(&middlebox));
                assert_eq!(left, None, "{violation:?} {socket:?}");
                if rule == "late_for_middlebox" {
                    assert_eq!(
                        found("interval_above_idle", &socket, None),
                        None,
                        "{violation:?}"
                    );
                }
            }
        }
    }
    assert!(applied > 1000, "{applied}");
}

/// Switched on with what a middlebox needs: in time for it.
#[test]
fn switched_on_for_a_middlebox() {
    for seconds in (2..2000).chain([86_400, 432_000]) {
        let middlebox = Middlebox::unnamed(Duration::from_secs(seconds));
        let mut socket = off("worker");
        let late = found("late_for_middlebox", &socket, Some(&middlebox)).unwrap();
        apply(&late.remedy, socket.keepalive.as_mut().unwrap());
        let rules = ["late_for_middlebox", "interval_above_idle"];
        for rule in rules {
            assert_eq!(found(rule, &socket, Some(&middlebox)), None, "{seconds} s");
        }
    }
}

#[test]
fn no_value_is_short_enough() {
    let middlebox = Middlebox::unnamed(Duration::from_secs(1));
    let found = found("late_for_middlebox", &off("worker"), Some(&middlebox)).unwrap();
    assert!(
        found.remedy.starts_with("no keepalive setting is as short"),
        "{found:?}"
    );
}

#[test]
fn a_proxy_ignores_keepalive() {
    let proxy = Middlebox::proxy(Duration::from_mins(1));
    for socket in [of("worker"), off("worker")] {
        let found = found("late_for_middlebox", &socket, Some(&proxy)).unwrap();
        assert!(
            found.remedy.starts_with("no keepalive setting helps"),
            "{found:?}"
        );
        assert!(!found.remedy.contains("TCP_KEEP"), "{found:?}");
        assert!(
            found
                .evidence
                .contains("closes connections without data after 60 s"),
            "{found:?}"
        );
    }
    let fixed = Middlebox {
        expiry: Expiry::Proxy { setting: None },
        ..proxy.clone()
    };
    let raise = |proxy| {
        let found = found("late_for_middlebox", &of("worker"), Some(proxy)).unwrap();
        found.remedy.contains("or raise")
    };
    assert_eq!([raise(&proxy), raise(&fixed)], [true, false]);
    let idle = ListedSocket {
        silence_ms: Some(120_000),
        ..off("worker")
    };
    assert!(
        found("no_keepalive", &idle, Some(&proxy)).is_some(),
        "its host may die too"
    );
}

#[test]
fn a_reset_is_notice() {
    let with = |expiry| {
        let middlebox = Middlebox {
            expiry,
            ..Middlebox::unnamed(Duration::from_secs(350))
        };
        found("late_for_middlebox", &off("worker"), Some(&middlebox))
            .unwrap()
            .consequence
    };
    assert!(with(Expiry::Silent).contains("without notice to either end"));
    let resets = with(Expiry::ResetsNext);
    assert!(
        resets.contains("answered by RST") && !resets.contains("without notice"),
        "{resets}"
    );
    assert!(!with(Expiry::Unspecified).contains("without notice"));
}

/// The interval alone is too long: the idle time stays.
#[test]
fn a_late_interval() {
    let mut socket = socket();
    let keepalive = socket.keepalive.as_mut().unwrap();
    (keepalive.time_ms, keepalive.interval_ms) = (60_000, 400_000);
    let middlebox = Middlebox::unnamed(Duration::from_secs(350));
    let found = found("late_for_middlebox", &socket, Some(&middlebox)).unwrap();
    assert!(
        found.remedy.starts_with("setsockopt TCP_KEEPINTVL = 10 "),
        "{found:?}"
    );
    assert!(
        found
            .evidence
            .contains("first probe after 60 s, but the next one after 400 s"),
        "{found:?}"
    );
}

#[test]
fn listeners_of_programs_that_set_it_on_each_connection() {
    let listener = |comm: &str| {
        let mut socket = off(comm);
        socket.socket.state = TcpState::Listen;
        socket.socket.peer.address = IpAddr::from([0, 0, 0, 0]);
        socket
    };
    let finding = |comm: &str, connections: &[bool]| {
        let mut ports = vec![identity(state::LISTEN, 0)];
        for (peer, keepopen) in (2..).zip(connections) {
            let mut connection = identity(state::ESTABLISHED, peer);
            connection.keepopen = *keepopen;
            ports.push(connection);
        }
        let around = Surroundings::new(Some(1), ports.iter());
        let socket = listener(comm);
        let case = Case {
            socket: &socket,
            plan: None,
            middlebox: None,
            silent_ms: 1,
            around: &around,
        };
        super::super::listener_without_keepalive(&case)
    };
    assert!(
        finding("nginx", &[])
            .unwrap()
            .remedy
            .contains("`so_keepalive=60s:10s:6`")
    );
    assert_eq!(finding("haproxy", &[]), None);
    assert!(
        finding("haproxy", &[false])
            .unwrap()
            .remedy
            .contains("`option clitcpka`")
    );
    assert_eq!(finding("haproxy", &[true]), None);
    assert!(
        finding("worker", &[false])
            .unwrap()
            .remedy
            .contains("on the listener")
    );
    assert_eq!(finding("worker", &[false, true]), None);
}
