//! The record: what one observation of one socket looks like on the ring buffer.
//!
//! Every record has the same size and shape: the identity of the socket ([`Identity`]), its keepalive
//! settings ([`Settings`]), and the kernel's values at the end of what was observed
//! ([`TcpSample`], `after`). Records of something with a beginning (a timer run, an ACK) also
//! contain the values at that beginning (`before`): user space infers the kernel's decision from the
//! difference.
//!
//! All values are in the kernel's own units; the BPF side interprets nothing. Every enumeration, set
//! of flags and boolean has its own type: bytes become a [`Record`] only where user space checks them.
//! What later kernels may add to (TCP state, family, errno) is a number.

use bitflags::bitflags;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// Recordings contain it. Incremented whenever something in [`Record`] *changes*: a field moves, or a value
/// gets another meaning. Additions do not increment it: a field at the end of [`Record`] or in
/// place of a reserved one, for which zero means "not recorded"; a new [`Kind`], [`Within`] or flag,
/// which an older program counts as undecodable. Records of version 1 stay readable: they have no
/// [`Route`], no `exit_code`, and fewer fields in [`Settings`] and [`TcpSample`].
pub const ABI_VERSION: u32 = 2;

/// What was observed. Numbers are never reused.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
pub enum Kind {
    /// The keepalive timer ran (`tcp_keepalive_timer`); `before` is its entry.
    KeepaliveTimer = 1,
    /// The write timer ran with a zero-window probe pending (`ICSK_TIME_PROBE0`) and changed something;
    /// `before` is its entry.
    WindowProbe = 2,
    /// SO_KEEPALIVE or TCP_KEEPIDLE was set in process context.
    Setsockopt = 3,
    /// A socket with SO_KEEPALIVE reached ESTABLISHED; `from_state` is the state before.
    Established = 4,
    /// A tracked socket reached CLOSE; `from_state` is the state before, `within` what the kernel
    /// was doing.
    Close = 5,
    /// An ACK was accepted while a probe was outstanding (`--live-answers`).
    Ack = 6,
    /// A process closes its side of a socket with SO_KEEPALIVE (FIN_WAIT1, LAST_ACK): the last
    /// moment at which the socket has an owner.
    Closing = 7,
    /// Only the owner of the socket: the acting task connects it (SYN_SENT) or has just
    /// accepted it, and SO_KEEPALIVE is on; or, without an acting task, the socket retransmits and may be ended
    /// by a timer. It produces no event, and recordings do not contain it.
    Owner = 8,
    /// User space requested a sample of a socket without a record for too long; not read
    /// under the socket's lock.
    Polled = 9,
    /// A socket that is older than the trace and reported nevertheless. Made in user space from a
    /// listing, not by the programs.
    Listed = 128,
}

/// Which timer of this socket was running on this CPU.
#[repr(u8)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
pub enum Within {
    /// None.
    #[default]
    Nothing = 0,
    /// `tcp_keepalive_timer`.
    KeepaliveTimer = 1,
    /// The write timer, retransmission pending (`ICSK_TIME_RETRANS`).
    RetransmitTimer = 2,
    /// The write timer, zero-window probe pending (`ICSK_TIME_PROBE0`).
    ProbeTimer = 3,
}

/// Whether a socket is an MPTCP subflow (`tcp_sock.is_mptcp`).
#[repr(u8)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
pub enum Mptcp {
    #[default]
    No = 0,
    Subflow = 1,
    /// The kernel has no such field, or does not show it here.
    Unknown = 255,
}

/// What else a record contains.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct RecordFlags(u8);

bitflags! {
    impl RecordFlags: u8 {
        /// `wakeup_result` is valid: the return of `tcp_write_wakeup` was observed.
        const WAKEUP_SEEN = 1 << 0;
        /// This backend hooks `tcp_write_wakeup`; absence of a result means it did not run.
        const WAKEUP_WATCHED = 1 << 1;
        /// `tgid` and `comm` are those of the task acting on the socket.
        const PROCESS_CONTEXT = 1 << 2;
        /// SO_KEEPALIVE is being switched on by this very call.
        const SWITCHING_ON = 1 << 3;
        /// SO_KEEPALIVE is being switched off by this very call.
        const SWITCHING_OFF = 1 << 4;
        /// The acting task is exiting (`PF_EXITING`), and `exit_code` is valid: the kernel closes its files.
        const EXITING = 1 << 5;
    }
}

/// What [`Route`] contains.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct RouteFlags(u8);

bitflags! {
    impl RouteFlags: u8 {
        /// The route was read.
        const READ = 1 << 0;
        /// The socket has a route (`sk_dst_cache`). A send without one has just failed to find one.
        const CACHED = 1 << 1;
        /// The device of the route is up (`IFF_UP`).
        const UP = 1 << 2;
        /// The device has a carrier (no `__LINK_STATE_NOCARRIER`).
        const CARRIER = 1 << 3;
    }
}

/// The route that the socket sends by. 8 bytes; all zero if it was not recorded.
#[repr(C, align(8))]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Route {
    /// `ifindex` of its device, 0 without a route.
    pub device: u32,
    pub flags: RouteFlags,
    /// Zero.
    pub reserved: [u8; 3],
}

/// The identity of the socket. 88 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
pub struct Identity {
    /// Address of the `struct sock`: identifies the socket until its CLOSE. Never output.
    pub sk: u64,
    /// `skc_cookie`, or 0 if no process has requested one yet.
    pub cookie: u64,
    /// Inode number of the socket file (`/proc/PID/fd` shows it), 0 for orphans and not-yet-accepted sockets.
    pub inode: u64,
    /// Id of the cgroup the socket was created in (the inode number of its directory), 0 if unknown.
    pub cgroup: u64,
    /// Local address; IPv4 as IPv4-mapped IPv6.
    pub local: [u8; 16],
    /// Peer address; IPv4 as IPv4-mapped IPv6.
    pub peer: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port, host order.
    pub local_port: u16,
    /// Peer port, host order.
    pub peer_port: u16,
    /// `skc_family`: AF_INET or AF_INET6 (also for IPv4-mapped peers).
    pub family: u16,
    /// TCP state (`skc_state`), 1 = ESTABLISHED.
    pub state: u8,
    /// SO_KEEPALIVE is on (`SOCK_KEEPOPEN`).
    pub keepopen: bool,
    /// No process holds the socket any more (`SOCK_DEAD`).
    pub orphan: bool,
    pub mptcp: Mptcp,
    /// `sk_shutdown`: RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
    pub shutdown: u8,
    /// Zero.
    pub reserved: u8,
    /// `sk_err`, positive errno, 0 if none.
    pub error: u32,
    /// `sk_err_soft`, positive errno, 0 if none.
    pub error_soft: u32,
}

/// The settings the kernel uses for this socket. 48 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Settings {
    /// `tp->keepalive_time`, jiffies; 0 = the namespace's sysctl.
    pub time: u32,
    /// `tp->keepalive_intvl`, jiffies; 0 = the namespace's sysctl.
    pub interval: u32,
    /// `tp->keepalive_probes`; 0 = the namespace's sysctl.
    pub probes: u32,
    /// `icsk_user_timeout`, milliseconds; 0 = none.
    pub user_timeout: u32,
    /// `net.ipv4.tcp_keepalive_time` of the socket's namespace, jiffies.
    pub sysctl_time: u32,
    /// `net.ipv4.tcp_keepalive_intvl` of the socket's namespace, jiffies.
    pub sysctl_interval: u32,
    /// `net.ipv4.tcp_keepalive_probes` of the socket's namespace.
    pub sysctl_probes: u32,
    /// `net.ipv4.tcp_retries2` of the socket's namespace.
    pub sysctl_retries2: u32,
    /// Maximum RTO (`icsk_rto_max`), jiffies; 0 where the kernel has no such field (120 s).
    pub rto_max: u32,
    /// `net.ipv4.tcp_orphan_retries` of the socket's namespace, plus 1; 0 = not recorded.
    pub sysctl_orphan_retries: u32,
    /// TCP_SYNCNT (`icsk_syn_retries`), else `net.ipv4.tcp_syn_retries` of the namespace; 0 = not recorded.
    pub syn_retries: u32,
    /// Zero.
    pub reserved: u32,
}

/// The kernel's values at one instant. 104 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
pub struct TcpSample {
    /// `bpf_ktime_get_ns()`: CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// `bpf_jiffies64()`.
    pub jiffies: u64,
    /// `expires` of the timer this record is about (keepalive unless a window probe), 64-bit jiffies.
    pub expires: u64,
    /// `tp->tcp_clock_cache`: when the socket last handled a packet, CLOCK_MONOTONIC nanoseconds.
    pub clock_cache: u64,
    /// `tp->rcv_tstamp`: last acceptable ACK, low 32 bits of jiffies, 0 = never.
    pub rcv_tstamp: u32,
    /// `icsk_ack.lrcvtime`: last data, low 32 bits of jiffies, 0 = never.
    pub lrcvtime: u32,
    /// `icsk_probes_tstamp`: start of the zero-window phase, low 32 bits of jiffies, 0 = none.
    pub probes_tstamp: u32,
    /// `tp->packets_out`: segments sent and not acknowledged.
    pub packets_out: u32,
    /// `tp->write_seq`.
    pub write_seq: u32,
    /// `tp->snd_nxt`.
    pub snd_nxt: u32,
    /// `tp->snd_una`.
    pub snd_una: u32,
    /// `tp->snd_wnd`: bytes the peer lets us send.
    pub snd_wnd: u32,
    /// `tp->segs_out`: segments built so far.
    pub segs_out: u32,
    /// `icsk_rto`, jiffies.
    pub rto: u32,
    /// `tp->segs_in`: segments received so far, those outside the window included; 0 = not recorded.
    pub segs_in: u32,
    /// `tp->data_segs_in`: those of them with data.
    pub data_segs_in: u32,
    /// `tp->last_oow_ack_time`: when an empty segment outside the window was last answered, low 32 bits of
    /// jiffies, 0 = never. The peer's keepalive probe is one (`tcp_validate_incoming`).
    pub last_oow_ack_time: u32,
    /// `tp->retrans_stamp`: when what is being retransmitted was first retransmitted (in SYN_SENT: when the first
    /// SYN was sent), CLOCK_MONOTONIC milliseconds, low 32 bits, 0 = nothing is being retransmitted.
    pub retrans_stamp: u32,
    /// `icsk_probes_out`: unanswered probes, keepalive and zero-window alike.
    pub probes_out: u8,
    /// `icsk_backoff`.
    pub backoff: u8,
    /// `icsk_retransmits`.
    pub retransmits: u8,
    /// `icsk_pending`: 1 = retransmit, 3 = zero-window probe.
    pub pending: u8,
    /// The timer this record is about is queued (`entry.pprev != NULL`).
    pub timer_pending: bool,
    /// A process owns the socket (`sk_lock.owned`).
    pub owned: bool,
    /// TCP state at this instant.
    pub state: u8,
    /// SO_KEEPALIVE is on at this instant.
    pub keepopen: bool,
    /// No process holds the socket at this instant.
    pub orphan: bool,
    /// Zero.
    pub reserved: [u8; 7],
}

/// One observation. 392 bytes, on the ring buffer and in recordings.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    pub kind: Kind,
    pub flags: RecordFlags,
    pub within: Within,
    /// TCP state before the change that [`Kind::Established`] and [`Kind::Close`] report.
    pub from_state: u8,
    /// Return value of `tcp_write_wakeup`, valid with [`RecordFlags::WAKEUP_SEEN`]: 0 sent, < 0 counted
    /// but not sent (negative errno), > 0 dropped locally (qdisc).
    pub wakeup_result: i32,
    /// CPU the record was made on.
    pub cpu: u32,
    /// Process id (tgid) of the acting task, valid with [`RecordFlags::PROCESS_CONTEXT`].
    pub tgid: u32,
    /// Name of its process (`/proc/PID/comm`), NUL-terminated, untrusted; valid with
    /// [`RecordFlags::PROCESS_CONTEXT`].
    pub comm: [u8; 16],
    pub route: Route,
    /// `task_struct.exit_code` of the acting task, valid with [`RecordFlags::EXITING`]: as `wait(2)` reports
    /// it, so bits 0 to 6 are the signal that killed it, 0 if it exited.
    pub exit_code: u32,
    /// Zero.
    pub reserved: u32,
    pub id: Identity,
    pub settings: Settings,
    /// At the beginning of what was observed; zero if it has no beginning.
    pub before: TcpSample,
    /// At its end.
    pub after: TcpSample,
}

/// The bytes of a record in memory, before they are checked.
pub type RawRecord = [u64; size_of::<Record>() / size_of::<u64>()];

impl Record {
    /// A record of this kind in which all other fields are zero.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            flags: RecordFlags::empty(),
            within: Within::Nothing,
            from_state: 0,
            wakeup_result: 0,
            cpu: 0,
            tgid: 0,
            comm: [0; 16],
            route: Route::default(),
            exit_code: 0,
            reserved: 0,
            id: Identity::default(),
            settings: Settings::default(),
            before: TcpSample::default(),
            after: TcpSample::default(),
        }
    }
}

const _: () = {
    assert!(size_of::<Identity>() == 88);
    assert!(size_of::<Settings>() == 48);
    assert!(size_of::<TcpSample>() == 104);
    assert!(size_of::<Record>() == 392);
    assert!(size_of::<RawRecord>() == size_of::<Record>());
    assert!(align_of::<RawRecord>() == align_of::<Record>());
};
