//! The snapshot: what one socket looks like in a listing, whatever source told of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Identity, Settings, TcpSample};

/// `Snapshot::kind`: a full socket.
pub const SNAPSHOT_SOCKET: u8 = 1;
/// `Snapshot::kind`: a `struct inet_timewait_sock`; `sample.expires` is its end.
pub const SNAPSHOT_TIME_WAIT: u8 = 2;
/// `Snapshot::kind`: a `struct request_sock` (SYN_RECV); `sample.expires` is its SYN-ACK timer.
pub const SNAPSHOT_REQUEST: u8 = 3;

/// `Snapshot::known`: `settings` and `id.keepopen`.
pub const KNOWN_SETTINGS: u8 = 1 << 0;
/// `Snapshot::known`: which settings are the socket's own; without it equal to the sysctl may
/// mean either.
pub const KNOWN_ORIGINS: u8 = 1 << 1;
/// `Snapshot::known`: all timers; without it only the one the kernel's diag interface picks.
pub const KNOWN_ALL_TIMERS: u8 = 1 << 2;
/// `Snapshot::known`: when data and ACKs last came in, and what is in flight.
pub const KNOWN_TRAFFIC: u8 = 1 << 3;

/// One socket of a listing. 248 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Snapshot {
    pub id: Identity,
    pub settings: Settings,
    /// `expires` and `timer_pending` are those of the timer in the keepalive timer's place.
    pub sample: TcpSample,
    /// Deadline of the write timer, 64-bit jiffies, valid if `sample.pending` is not 0.
    pub write_expires: u64,
    /// Deadline of the delayed ACK, 64-bit jiffies, valid if `delack_pending` is not 0.
    pub delack_expires: u64,
    /// Bytes not read by the application; connections not accepted, of a listener.
    pub receive_queue: u32,
    /// Bytes not acknowledged by the peer; the most connections that may wait, of a listener.
    pub send_queue: u32,
    /// The owning user id, in the reader's user namespace.
    pub uid: u32,
    /// One of the `SNAPSHOT_` constants.
    pub kind: u8,
    /// `KNOWN_` bits.
    pub known: u8,
    /// 1 if a delayed ACK is waiting for its timer (`ICSK_ACK_TIMER`).
    pub delack_pending: u8,
    /// Zero.
    pub reserved: u8,
}

/// A socket in a file descriptor table. 16 bytes.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct OpenSocket {
    /// Inode number of the socket file.
    pub inode: u64,
    /// Process id of the table, in the initial pid namespace.
    pub tgid: u32,
    /// Its place in the table.
    pub fd: u32,
}

const _: () = {
    assert!(size_of::<Snapshot>() == 248);
    assert!(size_of::<OpenSocket>() == 16);
};
