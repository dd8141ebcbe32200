//! # Constants of the kernel
//!
//! The same in every kernel; each with its name and file there.

/// `include/net/tcp_states.h`.
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    pub const NEW_SYN_RECV: u8 = 12;
    /// Bound, and shown only by sock_diag: from 6.8 on.
    pub const BOUND_INACTIVE: u8 = 13;
}

/// `icsk_pending`, `include/net/inet_connection_sock.h`.
pub mod pending {
    pub const RETRANS: u8 = 1;
    pub const PROBE0: u8 = 3;
    pub const LOSS_PROBE: u8 = 5;
    pub const REO_TIMEOUT: u8 = 6;
}

/// `include/uapi/asm-generic/errno*.h`.
pub mod errno {
    pub const EPIPE: u32 = 32;
    pub const ECONNABORTED: u32 = 103;
    pub const ECONNRESET: u32 = 104;
}

/// `icsk_ack.pending`, `include/net/inet_connection_sock.h`.
pub const ICSK_ACK_TIMER: u8 = 2;
/// `include/net/sock.h`: `shutdown` sets it before it changes the state.
pub const SEND_SHUTDOWN: u8 = 2;
/// Both directions, `include/net/sock.h`.
pub const SHUTDOWN_MASK: u8 = 3;
/// `include/uapi/linux/in.h`.
pub const IPPROTO_TCP: u16 = 6;
/// `include/linux/socket.h`.
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
/// `include/uapi/linux/stat.h`.
pub const S_IFMT: u16 = 0o170_000;
pub const S_IFSOCK: u16 = 0o140_000;
/// `include/linux/sched.h`.
pub const PF_KTHREAD: u32 = 0x0020_0000;
/// `include/linux/sched.h`: the task is in `do_exit`.
pub const PF_EXITING: u32 = 0x0000_0004;
/// `include/uapi/linux/if.h`.
pub const IFF_UP: u32 = 1;

/// `TCP_RTO_MIN`, `include/net/tcp.h`: a fifth of a second, in jiffies.
pub fn rto_min(hz: u32) -> u32 {
    hz / 5
}

/// As [`rto_min`], milliseconds.
pub const RTO_MIN_MS: u64 = 200;
/// `TCP_RTO_MAX`, `include/net/tcp.h`, milliseconds, unless the socket has its own (`icsk_rto_max`).
pub const RTO_MAX_MS: u64 = 120_000;
/// `MAX_TCP_KEEPIDLE` and `MAX_TCP_KEEPINTVL`, `include/net/tcp.h`, seconds.
pub const KEEPALIVE_MAX_S: u32 = 32_767;
/// `MAX_TCP_KEEPCNT`, `include/net/tcp.h`.
pub const PROBES_MAX: u32 = 127;
