//! The layout: where the running kernel keeps the fields we read, resolved from its BTF by user
//! space and injected as a read-only global. No kernel struct is compiled in.

use zerocopy::{Immutable, IntoBytes};

/// Offset of a field this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Most bytes of a `struct tcp_sock` a program copies. Above any kernel's `KernelLayout::copy_len`.
pub const SOCK_COPY_MAX: usize = 4096;

/// Byte offsets, sizes and masks of one kernel. Offsets are from the `struct sock` (the address
/// of `struct tcp_sock` as well) unless the field says otherwise; [`ABSENT`] for optional fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct KernelLayout {
    /// Bytes of the socket to copy so that every field below is in: a multiple of 8, at most [`SOCK_COPY_MAX`].
    pub copy_len: u32,
    /// As `copy_len`, for the small sockets of TIME_WAIT and SYN_RECV.
    pub mini_copy_len: u32,

    /// The keepalive timer: `inet_connection_sock.icsk_keepalive_timer`, else `sock.sk_timer`.
    pub keepalive_timer: u32,
    /// The write timer: `inet_connection_sock.icsk_retransmit_timer`, else `sock.tcp_retransmit_timer`.
    pub write_timer: u32,
    /// Deadline of the write timer: `inet_connection_sock.icsk_timeout`, else the timer's own `expires`.
    pub write_expires: u32,
    /// Within `struct timer_list`.
    pub timer_pprev: u32,
    /// Within `struct timer_list`.
    pub timer_expires: u32,
    /// Within `struct timer_list`.
    pub timer_function: u32,

    pub skc_family: u32,
    pub skc_state: u32,
    pub skc_dport: u32,
    pub skc_num: u32,
    pub skc_daddr: u32,
    pub skc_rcv_saddr: u32,
    /// Optional: kernels without IPv6.
    pub skc_v6_daddr: u32,
    /// Optional: kernels without IPv6.
    pub skc_v6_rcv_saddr: u32,
    pub skc_net: u32,
    pub skc_cookie: u32,
    pub skc_flags: u32,
    /// `1 << SOCK_DEAD`, for the word at `skc_flags`.
    pub flag_dead: u32,
    /// `1 << SOCK_KEEPOPEN`, for the word at `skc_flags`.
    pub flag_keepopen: u32,
    pub sk_protocol: u32,
    pub sk_err: u32,
    pub sk_err_soft: u32,
    pub sk_shutdown: u32,
    pub sk_lock_owned: u32,
    pub sk_socket: u32,
    /// Optional: the inode number in the socket itself (from 6.18 on), else behind `sk_socket`.
    pub sk_ino: u32,
    pub sk_ack_backlog: u32,
    pub sk_max_ack_backlog: u32,
    pub sk_cgrp_data: u32,
    /// Bits of the word at `sk_cgrp_data` that, if any is set, mean "not a cgroup pointer" (5.10).
    pub cgroup_tag_mask: u32,
    pub inet_sport: u32,

    pub icsk_probes_out: u32,
    pub icsk_backoff: u32,
    pub icsk_retransmits: u32,
    pub icsk_pending: u32,
    pub icsk_user_timeout: u32,
    pub icsk_probes_tstamp: u32,
    pub icsk_rto: u32,
    /// Optional: older kernels have the constant TCP_RTO_MAX.
    pub icsk_rto_max: u32,
    pub icsk_ack_lrcvtime: u32,
    pub icsk_ack_pending: u32,
    /// Deadline of the delayed ACK: `icsk_ack.timeout`, else the `expires` of `icsk_delack_timer`.
    pub delack_expires: u32,

    pub keepalive_time: u32,
    pub keepalive_intvl: u32,
    pub keepalive_probes: u32,
    pub packets_out: u32,
    pub write_seq: u32,
    pub snd_nxt: u32,
    pub snd_una: u32,
    pub snd_wnd: u32,
    pub segs_out: u32,
    pub rcv_nxt: u32,
    pub copied_seq: u32,
    pub rcv_tstamp: u32,
    pub tcp_clock_cache: u32,
    /// Optional: kernels without MPTCP.
    pub is_mptcp: u32,

    /// `tw_timer.expires` within `struct inet_timewait_sock`.
    pub tw_expires: u32,
    /// Within `struct inet_timewait_sock`.
    pub tw_substate: u32,
    /// `rsk_timer.expires` within `struct request_sock`.
    pub rsk_expires: u32,
    /// Within `struct request_sock`.
    pub rsk_num_retrans: u32,

    /// Within `struct net`.
    pub net_inum: u32,
    /// Within `struct net`.
    pub sysctl_keepalive_time: u32,
    /// Within `struct net`.
    pub sysctl_keepalive_intvl: u32,
    /// Within `struct net`.
    pub sysctl_keepalive_probes: u32,
    /// Within `struct net`.
    pub sysctl_retries2: u32,

    /// `vfs_inode.i_ino` within `struct socket_alloc`, whose address is that of the `struct socket`.
    pub socket_inode: u32,
    /// `f_inode` within `struct file`.
    pub file_inode: u32,
    /// `i_ino` within `struct inode`.
    pub inode_number: u32,
    /// `i_mode` within `struct inode`.
    pub inode_mode: u32,
    /// `tgid` within `struct task_struct`.
    pub task_tgid: u32,
    /// `flags` within `struct task_struct`.
    pub task_flags: u32,
    /// `group_leader` within `struct task_struct`: the thread whose name is the process's.
    pub task_group_leader: u32,
    /// `comm` within `struct task_struct`.
    pub task_comm: u32,
    /// `sk` within `struct socket`.
    pub socket_sk: u32,
    /// Within `struct cgroup`. Optional.
    pub cgroup_kn: u32,
    /// Within `struct kernfs_node`. Optional.
    pub kn_id: u32,
}
