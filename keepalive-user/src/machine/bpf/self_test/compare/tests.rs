//! Correct and wrong readings of a connection that this test makes, without BPF.

use std::collections::BTreeSet;

use keepalive_ebpf::{Comparison, FIELDS, Kind, Record};
use zerocopy::{FromBytes, FromZeros, transmute};

use super::*;
use crate::machine::bpf::self_test::connection::{Connection, Depth};

const HZ: u32 = 250;
const FUNCTION: u64 = 0xffff_ffff_8100_0000;
const SK: u64 = 0xffff_8880_0102_0304;

/// A layout that has every optional field.
fn layout() -> KernelLayout {
    KernelLayout::read_from_bytes(&[0; size_of::<KernelLayout>()]).unwrap()
}

/// A connection; every value that depends on this machine is set to a fixed one.
fn connection(depth: Option<Depth>) -> (Truth, After) {
    let mut connection = Connection::open(|_, _| Ok(())).unwrap();
    if let Some(depth) = depth {
        assert!(connection.close_window(depth).unwrap());
    }
    let mut after = connection.shut_down().unwrap();
    let mut truth = connection.truth;
    truth.cgroup = Some(42);
    truth.sysctls = Some(SysctlValues {
        time: 7200,
        interval: 75,
        probes: 9,
        retries2: 15,
        syn_retries: 6,
        orphan_retries: 0,
    });
    truth.info.tcpi_rto = 200_000;
    truth.rto_max_ms = Some(98_768);
    (truth.task_flags, after.task_flags) = (Some(0x0040_0100), Some(0x0040_0140));
    (truth, after)
}

/// The programs' result, before it is converted to bytes.
struct Read {
    state_changes: u32,
    task_flags: u32,
    keepalive_function: u64,
    write_function: u64,
    write_expires: u64,
    socket_sk: u64,
    record: Record,
}

impl Read {
    fn test(&self) -> SelfTest {
        SelfTest {
            state_changes: self.state_changes,
            task_flags: self.task_flags,
            keepalive_function: self.keepalive_function,
            write_function: self.write_function,
            write_expires: self.write_expires,
            socket_sk: self.socket_sk,
            record: transmute!(self.record),
            ..SelfTest::new_zeroed()
        }
    }
}

/// The record of programs with the correct layout for this socket.
fn record(truth: &Truth) -> Record {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    Record {
        id: Identity {
            sk: SK,
            state: state::ESTABLISHED,
            family: AddressFamily::INET.as_raw(),
            local: octets(truth.local.ip()),
            peer: octets(truth.peer.ip()),
            local_port: truth.local.port(),
            peer_port: truth.peer.port(),
            cookie: truth.cookie,
            inode: truth.inode,
            netns: truth.netns,
            cgroup: 42,
            keepopen: true,
            shutdown: SEND_SHUTDOWN,
            ..Identity::default()
        },
        settings: Settings {
            time: IDLE_SECONDS * HZ,
            interval: INTERVAL_SECONDS * HZ,
            probes: PROBES,
            user_timeout: USER_TIMEOUT_MS,
            sysctl_time: 7200 * HZ,
            sysctl_interval: 75 * HZ,
            sysctl_probes: 9,
            sysctl_retries2: 15,
            rto_max: 24_692,
            sysctl_orphan_retries: 1,
            syn_retries: 6,
            ..Settings::default()
        },
        after: TcpSample {
            time: 5_000_000_000,
            clock_cache: 4_999_000_000,
            jiffies: 0x1_0000_0010,
            expires: 0x1_0000_0000 + u64::from(IDLE_SECONDS * HZ),
            rcv_tstamp: 0xf,
            lrcvtime: 0xf,
            write_seq: 7 + truth.info.tcpi_notsent_bytes,
            snd_nxt: 7,
            snd_una: 7,
            snd_wnd: truth.info.tcpi_snd_wnd,
            segs_out: truth.info.tcpi_segs_out,
            segs_in: truth.info.tcpi_segs_in,
            data_segs_in: truth.info.tcpi_data_segs_in,
            rto: HZ / 5,
            probes_out: truth.info.tcpi_probes,
            backoff: truth.info.tcpi_backoff,
            timer_pending: true,
            owned: true,
            ..TcpSample::default()
        },
        route: over_lo(),
        ..Record::new(Kind::Polled)
    }
}

fn over_lo() -> Route {
    Route {
        device: 1,
        flags: RouteFlags::all(),
        reserved: [0; 3],
    }
}

/// The result of programs with the correct layout for this socket.
fn right(truth: &Truth) -> Read {
    let mut record = record(truth);
    let own = std::fs::read("/proc/self/comm").unwrap();
    let own = own.strip_suffix(b"\n").unwrap();
    record.comm[..own.len()].copy_from_slice(own);
    if truth.closing.is_some() {
        record.after.pending = pending::PROBE0;
    }
    if truth.info.tcpi_backoff > 0 {
        record.after.probes_tstamp = 0xf;
    }
    let interval = u64::from(HZ / 5) << truth.info.tcpi_backoff;
    Read {
        state_changes: 2,
        task_flags: 0x0040_0900,
        keepalive_function: FUNCTION,
        write_function: FUNCTION + 1,
        write_expires: record.after.jiffies + interval - 1,
        socket_sk: SK,
        record,
    }
}

type Spoil = fn(&mut Read);

/// The rows of the layout that may be wrong, a word of the error, and the wrong reading.
const WRONG: [(&[&str], &str, Spoil); 51] = [
    (&["sk_protocol"], "sk_protocol", |it| it.state_changes = 0),
    (&["skc_family"], "skc_family", |it| it.record.id.family = 10),
    (&["skc_state"], "skc_state", |it| it.record.id.state = 4),
    (&["inet_sport"], "inet_sport", |it| {
        it.record.id.local_port ^= 1;
    }),
    (&["skc_dport"], "skc_dport", |it| {
        it.record.id.peer_port ^= 1;
    }),
    (&["skc_rcv_saddr"], "local address", |it| {
        it.record.id.local[15] ^= 2;
    }),
    (&["skc_daddr"], "peer address", |it| {
        it.record.id.peer[15] ^= 2;
    }),
    (&["skc_cookie"], "skc_cookie", |it| it.record.id.cookie ^= 1),
    (&["sk_ino", "sk_socket", "socket_inode"], "i_ino", |it| {
        it.record.id.inode ^= 1;
    }),
    (&["skc_net", "net_inum"], "net.ns.inum", |it| {
        it.record.id.netns ^= 1;
    }),
    (&["skc_flags", "flag_keepopen"], "SOCK_KEEPOPEN", |it| {
        it.record.id.keepopen = false;
    }),
    (&["flag_dead"], "SOCK_DEAD", |it| it.record.id.orphan = true),
    (&["sk_err"], "sk_err", |it| it.record.id.error = 1),
    (&["sk_err_soft"], "sk_err_soft", |it| {
        it.record.id.error_soft = 1;
    }),
    (&["is_mptcp"], "is_mptcp", |it| {
        it.record.id.mptcp = Mptcp::Subflow;
    }),
    (&["sk_shutdown"], "sk_shutdown", |it| {
        it.record.id.shutdown = 0;
    }),
    (&["sk_lock_owned"], "sk_lock.owned", |it| {
        it.record.after.owned = false;
    }),
    (
        &["sk_cgrp_data", "cgroup_kn", "kn_id"],
        "sk_cgrp_data",
        |it| it.record.id.cgroup = 43,
    ),
    (&["socket_sk", "sk_socket"], "socket.sk", |it| {
        it.socket_sk = 0;
    }),
    (&["keepalive_time"], "tick", |it| {
        it.record.settings.time = 0;
    }),
    (&["keepalive_time"], "keepalive_time", |it| {
        it.record.settings.time += 1;
    }),
    (&["keepalive_intvl"], "keepalive_intvl", |it| {
        it.record.settings.interval = 0;
    }),
    (&["keepalive_probes"], "keepalive_probes", |it| {
        it.record.settings.probes = 0;
    }),
    (&["icsk_user_timeout"], "icsk_user_timeout", |it| {
        it.record.settings.user_timeout = 0;
    }),
    (&["icsk_rto_max"], "icsk_rto_max", |it| {
        it.record.settings.rto_max = 30_000;
    }),
    (
        &["sysctl_keepalive_time"],
        "sysctl_tcp_keepalive_time",
        |it| {
            it.record.settings.sysctl_time = 7200;
        },
    ),
    (
        &["sysctl_keepalive_intvl"],
        "sysctl_tcp_keepalive_intvl",
        |it| {
            it.record.settings.sysctl_interval = 75;
        },
    ),
    (
        &["sysctl_keepalive_probes"],
        "sysctl_tcp_keepalive_probes",
        |it| {
            it.record.settings.sysctl_probes = 8;
        },
    ),
    (&["sysctl_retries2"], "sysctl_tcp_retries2", |it| {
        it.record.settings.sysctl_retries2 = 8;
    }),
    (&["icsk_probes_out"], "icsk_probes_out", |it| {
        it.record.after.probes_out = 1;
    }),
    (&["icsk_backoff"], "icsk_backoff", |it| {
        it.record.after.backoff ^= 2;
    }),
    (&["icsk_retransmits"], "icsk_retransmits", |it| {
        it.record.after.retransmits = 1;
    }),
    (&["icsk_pending"], "icsk_pending", |it| {
        it.record.after.pending ^= 1;
    }),
    (&["icsk_probes_tstamp"], "icsk_probes_tstamp", |it| {
        it.record.after.probes_tstamp ^= 1 << 20;
    }),
    (&["icsk_rto"], "icsk_rto", |it| it.record.after.rto += 2),
    (&["packets_out"], "packets_out", |it| {
        it.record.after.packets_out = 1;
    }),
    (&["snd_nxt", "snd_una"], "snd_nxt 8", |it| {
        it.record.after.snd_nxt = 8;
    }),
    (&["write_seq"], "write_seq", |it| {
        it.record.after.write_seq += 1;
    }),
    (&["snd_wnd"], "snd_wnd", |it| it.record.after.snd_wnd += 1),
    (&["segs_out"], "segs_out", |it| {
        it.record.after.segs_out += 9;
    }),
    (&["segs_in"], "segs_in", |it| it.record.after.segs_in += 9),
    (&["data_segs_in"], "data_segs_in", |it| {
        it.record.after.data_segs_in += 9;
    }),
    (&["last_oow_ack_time"], "last_oow_ack_time", |it| {
        it.record.after.last_oow_ack_time = 1;
    }),
    (&["retrans_stamp"], "retrans_stamp", |it| {
        it.record.after.retrans_stamp = 1;
    }),
    (
        &["icsk_syn_retries", "sysctl_syn_retries"],
        "sysctl_tcp_syn_retries",
        |it| it.record.settings.syn_retries = 5,
    ),
    (
        &["sysctl_orphan_retries"],
        "sysctl_tcp_orphan_retries",
        |it| it.record.settings.sysctl_orphan_retries = 0,
    ),
    (
        &["rcv_tstamp", "icsk_ack_lrcvtime", "tcp_clock_cache"],
        "tcp_clock_cache",
        |it| {
            it.record.after.clock_cache = 0;
            it.record.after.time = 1 << 60;
        },
    ),
    (&["timer_expires"], "keepalive timer", |it| {
        it.record.after.expires = 0;
    }),
    (&["timer_pprev"], "keepalive timer", |it| {
        it.record.after.timer_pending = false;
    }),
    (&["write_expires"], "write timer", |it| {
        it.write_expires += 1 << 16;
    }),
    (&["write_expires"], "write timer", |it| it.write_expires = 0),
];

/// Wrong readings outside the values of the socket.
const WRONG_ELSEWHERE: [(&[&str], &str, Spoil); 10] = [
    (
        &["sk_dst_cache", "dst_dev", "dev_ifindex"],
        "sk_dst_cache",
        |it| it.record.route.device = 2,
    ),
    (
        &["dev_flags", "dev_state", "flag_no_carrier"],
        "state of lo",
        |it| it.record.route.flags.remove(RouteFlags::CARRIER),
    ),
    (&["rcv_tstamp"], "rcv_tstamp", |it| {
        it.record.after.rcv_tstamp = 1 << 20;
    }),
    (&["icsk_ack_lrcvtime"], "lrcvtime", |it| {
        it.record.after.lrcvtime = 1 << 20;
    }),
    (&["keepalive_timer"], "keepalive timer", |it| {
        it.keepalive_function = 0;
    }),
    (&["write_timer"], "write timer", |it| it.write_function = 0),
    (&["timer_function"], "same callback", |it| {
        it.write_function = FUNCTION;
    }),
    (&["timer_function"], "timer_list.function", |it| {
        it.write_function = 1;
    }),
    (&["task_flags"], "task_struct.flags", |it| {
        it.task_flags = 0x0020_0040;
    }),
    (
        &["task_comm", "task_group_leader"],
        "task_struct.comm",
        |it| it.record.comm[0] ^= 1,
    ),
];

/// Fields that only the iterators read: [`Connection::check`] compares the first two; the walk over open
/// files, which must find the socket under test, checks the rest.
const LISTED: [&str; 6] = [
    "rcv_nxt",
    "copied_seq",
    "file_inode",
    "inode_number",
    "inode_mode",
    "task_tgid",
];

#[test]
fn every_wrong_field_is_refused_by_its_name() {
    for depth in [None, Some(Depth::AtOnce)] {
        let (truth, after) = connection(depth);
        let compare = |it: &Read| test(&truth, &after, &layout(), &it.test());
        assert_eq!(compare(&right(&truth)).unwrap().hz, HZ);
        for (rows, word, spoil) in WRONG.iter().chain(&WRONG_ELSEWHERE) {
            let mut wrong = right(&truth);
            spoil(&mut wrong);
            let error = compare(&wrong).err();
            let error = error.unwrap_or_else(|| panic!("{rows:?}")).to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}

/// The table marks exactly those fields as compared that are compared.
#[test]
fn the_table_marks_the_compared_fields() {
    let table: BTreeSet<&str> = FIELDS
        .iter()
        .filter(|field| !matches!(field.comparison, Comparison::NotCompared(_)))
        .map(|field| field.name)
        .collect();
    let spoiled = WRONG.iter().chain(&WRONG_ELSEWHERE);
    let compared: BTreeSet<&str> = spoiled
        .flat_map(|(rows, ..)| rows.iter().copied())
        .chain(LISTED)
        .collect();
    assert_eq!(table, compared);
}

/// Only after the first probe do two fields have nonzero values.
#[test]
fn a_probed_window_is_compared_too() {
    let (truth, after) = connection(Some(Depth::FirstProbe));
    assert!(truth.info.tcpi_backoff > 0);
    let compare = |it: &Read| test(&truth, &after, &layout(), &it.test());
    assert_eq!(compare(&right(&truth)).unwrap().hz, HZ);
    let spoils: [(&str, Spoil); 3] = [
        ("icsk_backoff", |it| it.record.after.backoff = 0),
        ("icsk_probes_tstamp", |it| it.record.after.probes_tstamp = 0),
        ("icsk_probes_tstamp", |it| {
            it.record.after.probes_tstamp = 1 << 20;
        }),
    ];
    for (word, spoil) in spoils {
        let mut wrong = right(&truth);
        spoil(&mut wrong);
        let error = compare(&wrong).err();
        let error = error.unwrap_or_else(|| panic!("{word}")).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}

/// Changes that the kernel may make between two readings of the socket.
#[test]
fn what_may_change_meanwhile_is_not_refused() {
    let (truth, mut after) = connection(None);
    let before = truth.info.tcpi_segs_out;
    after.info.tcpi_segs_out = before.wrapping_add(2);
    for sent in 0..=2 {
        let mut reading = right(&truth);
        reading.record.after.segs_out = before.wrapping_add(sent);
        assert!(
            test(&truth, &after, &layout(), &reading.test()).is_ok(),
            "{sent}"
        );
    }
    let mut reading = right(&truth);
    reading.record.after.segs_out = before.wrapping_sub(1);
    assert!(test(&truth, &after, &layout(), &reading.test()).is_err());
    // Before 6.15 nothing reports the longest timeout.
    let mut truth = truth;
    truth.rto_max_ms = None;
    assert!(test(&truth, &after, &layout(), &right(&truth).test()).is_ok());
    // /proc hides some values without the rights for them.
    (truth.task_flags, truth.sysctls, truth.cgroup) = (None, None, None);
    let mut reading = right(&truth);
    reading.task_flags = 0;
    reading.record.settings.sysctl_time = 0;
    assert!(test(&truth, &after, &layout(), &reading.test()).is_ok());
}
