//! Reading a socket: one wide copy of the `struct tcp_sock` into per-CPU scratch memory, then
//! plain loads at the offsets of the layout. The few facts behind pointers cost a read each.
//!
//! All reads are of memory that may be anything: `bpf_probe_read_kernel` cannot fault, and TCP
//! sockets live in type-stable memory, so a stale address gives stale numbers, never a crash.

use aya_ebpf::helpers::{
    bpf_jiffies64, bpf_ktime_get_ns, bpf_probe_read_kernel,
    generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw,
};
use keepalive_ebpf::{ABSENT, Identity, Numbers, Record, SOCK_COPY_MAX, Settings};

use crate::maps::{LOSS_SCRATCH, LOSS_UNREADABLE, SCRATCH, Scratch, count_loss, layout};

const AF_INET: u16 = 2;
/// Bytes 8..12 of `::ffff:0:0/96` as they lie in memory (the target is little-endian).
const V4_MAPPED: u32 = u32::from_le_bytes([0, 0, 0xff, 0xff]);

/// Which timer [`Numbers::expires`] and [`Numbers::timer_pending`] are about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    Keepalive,
    Write,
}

/// Reads one `T` at a kernel address; a failure is counted.
#[inline(always)]
pub fn try_peek<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and copies into a local of the right size.
    let value = unsafe { bpf_probe_read_kernel(address as *const T) };
    if value.is_err() {
        count_loss(LOSS_UNREADABLE);
    }
    value.ok()
}

/// As [`try_peek`]; zero if that memory cannot be read.
#[inline(always)]
pub fn peek<T: Default>(address: u64) -> T {
    try_peek(address).unwrap_or_default()
}

/// A copy of a socket in this CPU's scratch memory, valid while `owner` is ours.
pub struct Copy {
    scratch: *mut Scratch,
    owner: u64,
}

impl Copy {
    /// Copies the socket at `sk`; `None` if it cannot be read.
    #[inline(always)]
    pub fn of(sk: u64) -> Option<Self> {
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: no arguments, no side effects.
        let owner = unsafe { bpf_ktime_get_ns() };
        let length = layout!(copy_len);
        if length as usize > SOCK_COPY_MAX {
            return None;
        }
        // SAFETY: `scratch` is this CPU's map value; `length` is at most the size of `sock`.
        let result = unsafe {
            core::ptr::write_volatile(&raw mut (*scratch).owner, owner);
            bpf_probe_read_kernel_raw(
                (&raw mut (*scratch).sock).cast(),
                length,
                sk as *const core::ffi::c_void,
            )
        };
        if result != 0 {
            count_loss(LOSS_UNREADABLE);
            return None;
        }
        Some(Self { scratch, owner })
    }

    /// Whether nobody else has used the scratch memory since.
    #[inline(always)]
    pub fn is_intact(&self) -> bool {
        // SAFETY: `scratch` is this CPU's map value.
        unsafe { core::ptr::read_volatile(&raw const (*self.scratch).owner) == self.owner }
    }

    /// The `T` at `offset`, which must come from the layout: below `copy_len` and constant to
    /// the verifier.
    #[inline(always)]
    fn at<T>(&self, offset: u32) -> T {
        // SAFETY: user space checks that every field ends below `copy_len`, and the verifier
        // checks the access against the map value again.
        unsafe {
            (&raw const (*self.scratch).sock)
                .cast::<u8>()
                .add(offset as usize)
                .cast::<T>()
                .read_volatile()
        }
    }

    #[inline(always)]
    fn flags(&self) -> u32 {
        self.at::<u32>(layout!(skc_flags))
    }

    #[inline(always)]
    pub fn numbers(&self, timer: Timer, out: &mut Numbers) {
        let (timer_at, expires_at) = match timer {
            Timer::Keepalive => (
                layout!(keepalive_timer),
                layout!(keepalive_timer) + layout!(timer_expires),
            ),
            Timer::Write => (layout!(write_timer), layout!(write_expires)),
        };
        let flags = self.flags();
        *out = Numbers {
            time: self.owner,
            // SAFETY: no arguments, no side effects.
            jiffies: unsafe { bpf_jiffies64() },
            expires: self.at(expires_at),
            clock_cache: self.at(layout!(tcp_clock_cache)),
            rcv_tstamp: self.at(layout!(rcv_tstamp)),
            lrcvtime: self.at(layout!(icsk_ack_lrcvtime)),
            probes_tstamp: self.at(layout!(icsk_probes_tstamp)),
            packets_out: self.at(layout!(packets_out)),
            write_seq: self.at(layout!(write_seq)),
            snd_nxt: self.at(layout!(snd_nxt)),
            snd_una: self.at(layout!(snd_una)),
            snd_wnd: self.at(layout!(snd_wnd)),
            segs_out: self.at(layout!(segs_out)),
            rto: self.at(layout!(icsk_rto)),
            probes_out: self.at(layout!(icsk_probes_out)),
            backoff: self.at(layout!(icsk_backoff)),
            retransmits: self.at(layout!(icsk_retransmits)),
            pending: self.at(layout!(icsk_pending)),
            timer_pending: u8::from(self.at::<u64>(timer_at + layout!(timer_pprev)) != 0),
            owned: u8::from(self.at::<u32>(layout!(sk_lock_owned)) != 0),
            state: self.at(layout!(skc_state)),
            keepopen: u8::from(flags & layout!(flag_keepopen) != 0),
            orphan: u8::from(flags & layout!(flag_dead) != 0),
            reserved: [0; 7],
        };
    }

    #[inline(always)]
    fn identity(&self, sk: u64, out: &mut Identity) {
        let flags = self.flags();
        out.sk = sk;
        out.cookie = self.at(layout!(skc_cookie));
        out.inode = self.inode();
        out.cgroup = self.cgroup();
        out.family = self.at(layout!(skc_family));
        let has_v6 = layout!(skc_v6_daddr) != ABSENT && layout!(skc_v6_rcv_saddr) != ABSENT;
        if out.family == AF_INET || !has_v6 {
            out.local = mapped(self.at(layout!(skc_rcv_saddr)));
            out.peer = mapped(self.at(layout!(skc_daddr)));
        } else {
            out.local = words(
                self.at(layout!(skc_v6_rcv_saddr)),
                self.at(layout!(skc_v6_rcv_saddr) + 8),
            );
            out.peer = words(
                self.at(layout!(skc_v6_daddr)),
                self.at(layout!(skc_v6_daddr) + 8),
            );
        }
        out.local_port = u16::from_be(self.at(layout!(inet_sport)));
        out.peer_port = u16::from_be(self.at(layout!(skc_dport)));
        out.netns = peek(self.net() + u64::from(layout!(net_inum)));
        out.state = self.at(layout!(skc_state));
        out.keepopen = u8::from(flags & layout!(flag_keepopen) != 0);
        out.orphan = u8::from(flags & layout!(flag_dead) != 0);
        out.mptcp = if layout!(is_mptcp) == ABSENT {
            u8::MAX
        } else {
            self.at(layout!(is_mptcp))
        };
        out.shutdown = self.at::<u8>(layout!(sk_shutdown)) & 3;
        out.reserved = 0;
        out.error = self.at(layout!(sk_err));
        out.error_soft = self.at(layout!(sk_err_soft));
    }

    #[inline(always)]
    fn settings(&self, out: &mut Settings) {
        let net = self.net();
        out.time = self.at(layout!(keepalive_time));
        out.interval = self.at(layout!(keepalive_intvl));
        out.probes = u32::from(self.at::<u8>(layout!(keepalive_probes)));
        out.user_timeout = self.at(layout!(icsk_user_timeout));
        out.sysctl_time = peek(net + u64::from(layout!(sysctl_keepalive_time)));
        out.sysctl_interval = peek(net + u64::from(layout!(sysctl_keepalive_intvl)));
        out.sysctl_probes = u32::from(peek::<u8>(
            net + u64::from(layout!(sysctl_keepalive_probes)),
        ));
        out.sysctl_retries2 = u32::from(peek::<u8>(net + u64::from(layout!(sysctl_retries2))));
        out.rto_max = if layout!(icsk_rto_max) == ABSENT {
            0
        } else {
            self.at(layout!(icsk_rto_max))
        };
        out.reserved = 0;
    }

    #[inline(always)]
    fn net(&self) -> u64 {
        self.at(layout!(skc_net))
    }

    /// Inode number of the socket file; 0 without a file (orphans, not yet accepted).
    #[inline(always)]
    fn inode(&self) -> u64 {
        match self.at::<u64>(layout!(sk_socket)) {
            0 => 0,
            socket => peek(socket + u64::from(layout!(socket_inode))),
        }
    }

    /// Id of the cgroup; 0 if unknown. On 5.10 tag bits in the pointer mean "none of its own".
    #[inline(always)]
    fn cgroup(&self) -> u64 {
        if layout!(sk_cgrp_data) == ABSENT
            || layout!(cgroup_kn) == ABSENT
            || layout!(kn_id) == ABSENT
        {
            return 0;
        }
        let cgroup: u64 = self.at(layout!(sk_cgrp_data));
        if cgroup == 0 || cgroup & u64::from(layout!(cgroup_tag_mask)) != 0 {
            return 0;
        }
        let node: u64 = peek(cgroup + u64::from(layout!(cgroup_kn)));
        peek(node + u64::from(layout!(kn_id)))
    }
}

/// Reads the socket at `sk` into `record`, all but what belongs to the hook: `kind`, `before`, …
/// Tries again if another program took the scratch memory over; false, and counted, if in vain.
#[inline(never)]
pub fn read(sk: u64, timer: Timer, record: &mut Record) -> bool {
    for _ in 0..3 {
        let Some(copy) = Copy::of(sk) else {
            return false;
        };
        copy.identity(sk, &mut record.id);
        copy.settings(&mut record.settings);
        copy.numbers(timer, &mut record.after);
        if copy.is_intact() {
            return true;
        }
    }
    count_loss(LOSS_SCRATCH);
    false
}

/// An IPv4 address as IPv4-mapped IPv6.
#[inline(always)]
fn mapped(v4: u32) -> [u8; 16] {
    words(0, u64::from(V4_MAPPED) | u64::from(v4) << 32)
}

/// Two words as they lie in memory.
#[inline(always)]
fn words(first: u64, second: u64) -> [u8; 16] {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { core::mem::transmute([first, second]) }
}
