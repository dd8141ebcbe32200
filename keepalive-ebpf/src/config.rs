//! What user space sets before load: the filter, and the data of the self-test.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::RawRecord;

/// Which sockets are reported. A zero field matches everything.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Filter {
    /// Compared with the local and the peer address (IPv4 as IPv4-mapped IPv6) under `prefix_mask`.
    pub prefix: [u64; 2],
    /// Network byte order, like `prefix`; all zero = any address.
    pub prefix_mask: [u64; 2],
    /// Id of the cgroup the socket was created in.
    pub cgroup: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Host order.
    pub local_port: u16,
    /// Host order.
    pub peer_port: u16,
    /// 4 or 6: the family of the *addresses*, so an IPv4-mapped peer is 4.
    pub ip_version: u32,
    /// 1 = report every end of a connection, also without keepalive.
    pub all_ends: u32,
}

/// The data that the self-test exchanges with user space, the only element of the map `SELF_TEST`.
///
/// User space writes `peer_port` and `netns`, makes a loopback connection to that port, sets keepalive
/// options, and compares what the programs read with what it set, before any event is reported.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SelfTest {
    /// Peer port of the socket under test, host order; 0 = no test is running.
    pub peer_port: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// State changes of that socket seen so far.
    pub state_changes: u32,
    /// `current->flags` at the last of them.
    pub task_flags: u32,
    /// Function of the timer at `sk + layout.keepalive_timer`, as `timer:timer_start` saw it; 0 = not seen.
    pub keepalive_function: u64,
    /// Function of the timer at `sk + layout.write_timer`, likewise.
    pub write_function: u64,
    /// Deadline of the write timer at the last state change, 64-bit jiffies.
    pub write_expires: u64,
    /// The socket in the `struct socket` behind `sk_socket` at that time.
    pub socket_sk: u64,
    /// The last state change, a [`crate::Record`] read exactly as for an event; zero until then.
    pub record: RawRecord,
}

/// Addresses of the kernel's timer callbacks, the only element of the map `TIMER_FUNCTIONS`;
/// found by the self-test, never output.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct TimerFunctions {
    /// `tcp_keepalive_timer`.
    pub keepalive: u64,
    /// `tcp_write_timer`.
    pub write: u64,
}
