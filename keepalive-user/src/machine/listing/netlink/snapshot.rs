//! The socket in a message.

use keepalive_ebpf::{Identity, Known, Mptcp, Snapshot, SnapshotKind, TcpSample};
use linux_raw_sys::net::AF_INET;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{INET_DIAG_INFO, INET_DIAG_SKMEMINFO, Moment, SocketId};
use crate::{
    core::kernel::{pending, state},
    machine::bpf::self_test,
};

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retrans: u8,
    id: SocketId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

/// `struct nlattr`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(super) struct Attribute {
    pub(super) length: u16,
    pub(super) kind: u16,
}

/// The fields of `struct tcp_info` about traffic, all older than 5.10.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    flags: [u8; 3],
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
}

/// `tcpi_notsent_bytes`.
pub(super) const NOTSENT_BYTES: usize = 144;
/// `tcpi_snd_wnd`, since 5.4.
const SND_WND: usize = 228;

/// The kernel reports it only with CAP_NET_ADMIN over the namespace.
pub(super) const INET_DIAG_MARK: u16 = 15;
pub(super) const INET_DIAG_ULP_INFO: u16 = 19;
pub(super) const INET_DIAG_CGROUP_ID: u16 = 21;
pub(super) const INET_ULP_INFO_NAME: u16 = 1;
/// `NLA_TYPE_MASK`.
const TYPE: u16 = 0x3fff;

/// Whether the socket of a message belongs to a self-test, by the sizes of its buffers
/// (`SK_MEMINFO_RCVBUF`, `SK_MEMINFO_SNDBUF`): sock_diag reports none of its other options.
pub fn is_of_a_self_test(body: &[u8], id: &Identity) -> bool {
    let Ok((_, attributes)) = Answer::read_from_prefix(body) else {
        return false;
    };
    let word = |value: &[u8], index: usize| {
        let word = value.get(4 * index..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*word))
    };
    self_test::is_on_loopback(id)
        && self::attributes(attributes).any(|(kind, value)| {
            kind == INET_DIAG_SKMEMINFO
                && word(value, 1).zip(word(value, 3)) == Some(self_test::BUFFERS)
        })
}

/// The socket of a message, in ticks of a millisecond; `None` if it is too short.
pub fn snapshot(body: &[u8], moment: Moment) -> Option<Snapshot> {
    let (answer, attributes) = Answer::read_from_prefix(body).ok()?;
    let jiffies = moment.time / 1_000_000;
    let mut out = Snapshot {
        id: identity(&answer, moment),
        sample: TcpSample {
            time: moment.time,
            jiffies,
            state: answer.state,
            ..TcpSample::default()
        },
        receive_queue: answer.receive_queue,
        send_queue: answer.send_queue,
        uid: answer.uid,
        kind: SnapshotKind::Socket,
        ..Snapshot::default()
    };
    take_attributes(attributes, &mut out);
    take_timer(&answer, &mut out);
    Some(out)
}

fn take_attributes(attributes: &[u8], out: &mut Snapshot) {
    let (mut is_reported, mut is_mptcp) = (false, false);
    for (kind, value) in self::attributes(attributes) {
        match kind {
            INET_DIAG_INFO => traffic(value, out),
            INET_DIAG_CGROUP_ID => {
                out.id.cgroup = value.first_chunk().map_or(0, |id| u64::from_ne_bytes(*id));
            }
            INET_DIAG_MARK => is_reported = true,
            INET_DIAG_ULP_INFO => {
                is_reported = true;
                is_mptcp = self::attributes(value)
                    .any(|(kind, name)| kind == INET_ULP_INFO_NAME && name.starts_with(b"mptcp\0"));
            }
            _ => {}
        }
    }
    if is_reported {
        out.id.mptcp = if is_mptcp { Mptcp::Subflow } else { Mptcp::No };
    }
}

/// `idiag_timer`, net/ipv4/inet_diag.c: one of several timers, and not always by its own name.
fn take_timer(answer: &Answer, out: &mut Snapshot) {
    let expires = out.sample.jiffies + u64::from(answer.expires);
    match answer.timer {
        1 if answer.state == state::SYN_RECV && out.known.is_empty() => {
            out.kind = SnapshotKind::Request;
            out.id.mptcp = Mptcp::Unknown;
            out.sample.timer_pending = true;
            out.sample.expires = expires;
            out.sample.retransmits = answer.retrans;
        }
        1 => {
            out.sample.pending = pending::RETRANS;
            out.write_expires = expires;
            out.sample.retransmits = answer.retrans;
        }
        2 => {
            out.sample.timer_pending = true;
            out.sample.expires = expires;
            out.sample.probes_out = answer.retrans;
        }
        3 => {
            out.kind = SnapshotKind::TimeWait;
            out.id.mptcp = Mptcp::Unknown;
            out.sample.timer_pending = true;
            out.sample.expires = expires;
        }
        4 => {
            out.sample.pending = pending::PROBE0;
            out.write_expires = expires;
            out.sample.probes_out = answer.retrans;
        }
        _ => {}
    }
}

fn identity(answer: &Answer, moment: Moment) -> Identity {
    let id = &answer.id;
    let address = |bytes: [u8; 16]| match u32::from(answer.family) {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            std::net::Ipv4Addr::new(a, b, c, d)
                .to_ipv6_mapped()
                .octets()
        }
        _ => bytes,
    };
    // The local side has closed; in other states it has no inode while it waits to be accepted.
    let closing = matches!(
        answer.state,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING
    );
    Identity {
        cookie: u64::from(id.cookie[0]) | u64::from(id.cookie[1]) << 32,
        inode: answer.inode.into(),
        local: address(id.local),
        peer: address(id.peer),
        netns: moment.netns,
        local_port: id.local_port.get(),
        peer_port: id.peer_port.get(),
        family: answer.family.into(),
        state: answer.state,
        orphan: answer.inode == 0 && closing,
        mptcp: Mptcp::Unknown,
        ..Identity::default()
    }
}

/// Decodes `tcp_info`.
fn traffic(value: &[u8], out: &mut Snapshot) {
    let Ok((info, _)) = TcpInfo::read_from_prefix(value) else {
        return;
    };
    let sample = &mut out.sample;
    if out.id.state == state::LISTEN {
        return;
    }
    out.known |= Known::TRAFFIC;
    let now = sample.jiffies;
    // 0 means never.
    let stamp = |age: u32| (now.wrapping_sub(age.into()) as u32).max(1);
    if out.id.state != state::SYN_SENT {
        sample.rcv_tstamp = stamp(info.last_ack_recv);
        sample.lrcvtime = stamp(info.last_data_recv);
    }
    sample.packets_out = info.unacked;
    sample.write_seq = out.send_queue;
    let later = |offset: usize| {
        let bytes = value.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    };
    // Sequence numbers count from `snd_una`.
    sample.snd_nxt = out.send_queue.saturating_sub(later(NOTSENT_BYTES));
    sample.snd_wnd = later(SND_WND);
    sample.rto = info.rto / 1000;
    sample.probes_out = info.probes;
    sample.backoff = info.backoff;
    sample.retransmits = info.retransmits;
}

/// Kinds and values of attributes; stops at the first malformed one.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (attribute, _) = Attribute::read_from_prefix(bytes).ok()?;
        let length = usize::from(attribute.length);
        let value = bytes.get(size_of::<Attribute>()..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((attribute.kind & TYPE, value))
    })
}
