//! The snapshot: one socket in a listing, independent of the source of the listing.

use bitflags::bitflags;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::{Identity, Settings, TcpSample};

/// What kind of socket a snapshot is of.
#[repr(u8)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
pub enum SnapshotKind {
    /// A full socket.
    #[default]
    Socket = 0,
    /// A `struct inet_timewait_sock`; `sample.expires` is its end.
    TimeWait = 1,
    /// A `struct request_sock` (SYN_RECV); `sample.expires` is its SYN-ACK timer.
    Request = 2,
}

/// Which parts of a snapshot its source shows.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Known(u8);

bitflags! {
    impl Known: u8 {
        /// `settings` and `id.keepopen`.
        const SETTINGS = 1 << 0;
        /// Which settings are the socket's own; without it a value equal to the sysctl may be of either.
        const ORIGINS = 1 << 1;
        /// All timers; without it only the one the kernel's diag interface picks.
        const ALL_TIMERS = 1 << 2;
        /// When data and ACKs were last received, and what is in flight.
        const TRAFFIC = 1 << 3;
    }
}

/// One socket of a listing. 272 bytes.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, Immutable, KnownLayout,
)]
pub struct Snapshot {
    pub id: Identity,
    pub settings: Settings,
    /// `expires` and `timer_pending` are those of the timer in the keepalive timer's place.
    pub sample: TcpSample,
    /// Deadline of the write timer, 64-bit jiffies, valid if `sample.pending` is not 0.
    pub write_expires: u64,
    /// Deadline of the delayed ACK, 64-bit jiffies, valid if `delack_pending`.
    pub delack_expires: u64,
    /// Bytes not read by the application; for a listener, connections not accepted.
    pub receive_queue: u32,
    /// Bytes not acknowledged by the peer; for a listener, the maximum length of the accept queue.
    pub send_queue: u32,
    /// The owning user id, in the reader's user namespace.
    pub uid: u32,
    pub kind: SnapshotKind,
    pub known: Known,
    /// A delayed ACK is waiting for its timer (`ICSK_ACK_TIMER`).
    pub delack_pending: bool,
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
    /// The descriptor's number.
    pub fd: u32,
}

const _: () = {
    assert!(size_of::<Snapshot>() == 272);
    assert!(size_of::<OpenSocket>() == 16);
};
