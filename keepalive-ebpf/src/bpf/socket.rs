//! Reads a socket: one wide copy of the `struct tcp_sock` into per-CPU scratch memory, then
//! plain loads at the offsets of the layout. The few values behind pointers need one read each.
//!
//! All reads are of memory with unknown contents: `bpf_probe_read_kernel` cannot fault, and TCP
//! sockets are in type-stable memory, so a stale address gives stale values, not a crash.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::{
    bpf_jiffies64, bpf_ktime_get_ns, bpf_probe_read_kernel,
    generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw,
};
use keepalive_ebpf::{
    ABSENT, Identity, Loss, Mptcp, Record, Route, RouteFlags, SOCK_COPY_MAX, Settings, TcpSample,
    kernel::{AF_INET, IFF_UP},
};

use crate::maps::{SCRATCH, Scratch, count_loss, layout};

/// Bytes 8..12 of `::ffff:0:0/96` as they lie in memory (the target is little-endian).
const V4_MAPPED: u32 = u32::from_le_bytes([0, 0, 0xff, 0xff]);

/// Which timer [`TcpSample::expires`] and [`TcpSample::timer_pending`] are about.
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
        count_loss(Loss::Unreadable);
    }
    value.ok()
}

/// As [`try_peek`]; zero if that memory cannot be read.
#[inline(always)]
pub fn peek<T: Default>(address: u64) -> T {
    try_peek(address).unwrap_or_default()
}

/// Sets one field of a struct that need not be initialized yet.
macro_rules! set {
    ($out:ident.$field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: a field of memory for the struct; nothing is read from it.
        unsafe { (&raw mut (*$out.as_mut_ptr()).$field).write(value) };
    }};
}

/// A socket that can be read, field by field, at offsets of the layout.
pub trait Socket {
    /// The `T` at `offset`, which must come from the layout: constant to the verifier.
    fn at<T: Default>(&self, offset: u32) -> T;

    /// The `T` at `offset` of the socket's `struct net`.
    fn net_at<T: Default>(&self, offset: u32) -> T;

    /// A word at `offset` as a plain number, also where the verifier knows it as a pointer.
    fn word(&self, offset: u32) -> u64;

    /// When the socket is read, CLOCK_MONOTONIC nanoseconds.
    fn time(&self) -> u64;

    #[inline(always)]
    fn flags(&self) -> u32 {
        self.at::<u32>(layout!(skc_flags))
    }

    #[inline(always)]
    fn state(&self) -> u8 {
        self.at(layout!(skc_state))
    }

    /// Sets all of `out`, as [`Socket::identity`] does.
    #[inline(always)]
    fn sample(&self, timer: Timer, out: &mut MaybeUninit<TcpSample>) {
        let (timer_at, expires_at) = match timer {
            Timer::Keepalive => (
                layout!(keepalive_timer),
                layout!(keepalive_timer) + layout!(timer_expires),
            ),
            Timer::Write => (layout!(write_timer), layout!(write_expires)),
        };
        let flags = self.flags();
        set!(out.time = self.time());
        // SAFETY: no arguments, no side effects.
        set!(out.jiffies = unsafe { bpf_jiffies64() });
        set!(out.expires = self.at(expires_at));
        set!(out.clock_cache = self.at(layout!(tcp_clock_cache)));
        set!(out.rcv_tstamp = self.at(layout!(rcv_tstamp)));
        set!(out.lrcvtime = self.at(layout!(icsk_ack_lrcvtime)));
        set!(out.probes_tstamp = self.at(layout!(icsk_probes_tstamp)));
        set!(out.packets_out = self.at(layout!(packets_out)));
        set!(out.write_seq = self.at(layout!(write_seq)));
        set!(out.snd_nxt = self.at(layout!(snd_nxt)));
        set!(out.snd_una = self.at(layout!(snd_una)));
        set!(out.snd_wnd = self.at(layout!(snd_wnd)));
        set!(out.segs_out = self.at(layout!(segs_out)));
        set!(out.rto = self.at(layout!(icsk_rto)));
        set!(out.segs_in = self.at(layout!(segs_in)));
        set!(out.data_segs_in = self.at(layout!(data_segs_in)));
        set!(out.last_oow_ack_time = self.at(layout!(last_oow_ack_time)));
        set!(out.retrans_stamp = self.at(layout!(retrans_stamp)));
        set!(out.probes_out = self.at(layout!(icsk_probes_out)));
        set!(out.backoff = self.at(layout!(icsk_backoff)));
        set!(out.retransmits = self.at(layout!(icsk_retransmits)));
        set!(out.pending = self.at(layout!(icsk_pending)));
        set!(out.timer_pending = self.at::<u64>(timer_at + layout!(timer_pprev)) != 0);
        set!(out.owned = self.at::<u32>(layout!(sk_lock_owned)) != 0);
        set!(out.state = self.state());
        set!(out.keepopen = flags & layout!(flag_keepopen) != 0);
        set!(out.orphan = flags & layout!(flag_dead) != 0);
        set!(out.reserved = [0; 7]);
    }

    /// The fields common to all kinds of sockets: addresses, ports and namespace.
    #[inline(always)]
    fn addresses(&self, out: &mut MaybeUninit<Identity>) {
        let family = self.at(layout!(skc_family));
        let [local, peer] = self.ends(family);
        set!(out.cookie = self.at(layout!(skc_cookie)));
        set!(out.family = family);
        set!(out.local = bytes(local));
        set!(out.peer = bytes(peer));
        set!(out.peer_port = self.peer_port());
        set!(out.netns = self.net_at(layout!(net_inum)));
    }

    /// Local and peer address, two words in memory order each; IPv4 as IPv4-mapped IPv6.
    #[inline(always)]
    fn ends(&self, family: u16) -> [[u64; 2]; 2] {
        let has_v6 = layout!(skc_v6_daddr) != ABSENT && layout!(skc_v6_rcv_saddr) != ABSENT;
        if family == AF_INET || !has_v6 {
            return [
                mapped(self.at(layout!(skc_rcv_saddr))),
                mapped(self.at(layout!(skc_daddr))),
            ];
        }
        [layout!(skc_v6_rcv_saddr), layout!(skc_v6_daddr)]
            .map(|offset| [self.at(offset), self.at(offset + 8)])
    }

    /// Also for a socket that reached CLOSE, where `skc_num` is 0.
    #[inline(always)]
    fn local_port(&self) -> u16 {
        u16::from_be(self.at(layout!(inet_sport)))
    }

    #[inline(always)]
    fn peer_port(&self) -> u16 {
        u16::from_be(self.at(layout!(skc_dport)))
    }

    /// Sets all of `out`, in place: as a value it would be copied over the stack.
    #[inline(always)]
    fn identity(&self, sk: u64, out: &mut MaybeUninit<Identity>) {
        let flags = self.flags();
        set!(out.sk = sk);
        self.addresses(out);
        set!(out.inode = self.inode());
        set!(out.cgroup = self.cgroup());
        set!(out.local_port = self.local_port());
        set!(out.state = self.state());
        set!(out.keepopen = flags & layout!(flag_keepopen) != 0);
        set!(out.orphan = flags & layout!(flag_dead) != 0);
        set!(out.mptcp = self.mptcp());
        set!(out.shutdown = self.at::<u8>(layout!(sk_shutdown)) & 3);
        set!(out.reserved = 0);
        set!(out.error = self.at(layout!(sk_err)));
        set!(out.error_soft = self.at(layout!(sk_err_soft)));
    }

    /// The kernel's field is a `bool`.
    #[inline(always)]
    fn mptcp(&self) -> Mptcp {
        if layout!(is_mptcp) == ABSENT {
            return Mptcp::Unknown;
        }
        match self.at::<u8>(layout!(is_mptcp)) & 1 {
            0 => Mptcp::No,
            _ => Mptcp::Subflow,
        }
    }

    /// Sets all of `out`, as [`Socket::identity`] does.
    #[inline(always)]
    fn settings(&self, out: &mut MaybeUninit<Settings>) {
        set!(out.time = self.at(layout!(keepalive_time)));
        set!(out.interval = self.at(layout!(keepalive_intvl)));
        set!(out.probes = u32::from(self.at::<u8>(layout!(keepalive_probes))));
        set!(out.user_timeout = self.at(layout!(icsk_user_timeout)));
        set!(out.sysctl_time = self.net_at(layout!(sysctl_keepalive_time)));
        set!(out.sysctl_interval = self.net_at(layout!(sysctl_keepalive_intvl)));
        set!(out.sysctl_probes = u32::from(self.net_at::<u8>(layout!(sysctl_keepalive_probes))));
        set!(out.sysctl_retries2 = u32::from(self.net_at::<u8>(layout!(sysctl_retries2))));
        set!(
            out.rto_max = if layout!(icsk_rto_max) == ABSENT {
                0
            } else {
                self.at(layout!(icsk_rto_max))
            }
        );
        let orphan_retries = self.net_at::<u8>(layout!(sysctl_orphan_retries));
        set!(out.sysctl_orphan_retries = u32::from(orphan_retries) + 1);
        let own: u8 = self.at(layout!(icsk_syn_retries));
        let syn_retries = if own == 0 {
            self.net_at(layout!(sysctl_syn_retries))
        } else {
            own
        };
        set!(out.syn_retries = u32::from(syn_retries));
        set!(out.reserved = 0);
    }

    /// The route that the socket sends by. The device and its state are read without a lock: each is a
    /// word.
    #[inline(always)]
    fn route(&self, out: &mut MaybeUninit<Route>) {
        let out = clear(out);
        out.flags = RouteFlags::READ;
        let route: u64 = self.word(layout!(sk_dst_cache));
        if route == 0 {
            return;
        }
        out.flags |= RouteFlags::CACHED;
        let device: u64 = peek(route + u64::from(layout!(dst_dev)));
        out.device = peek(device + u64::from(layout!(dev_ifindex)));
        if peek::<u32>(device + u64::from(layout!(dev_flags))) & IFF_UP != 0 {
            out.flags |= RouteFlags::UP;
        }
        let state: u64 = peek(device + u64::from(layout!(dev_state)));
        if state & u64::from(layout!(flag_no_carrier)) == 0 {
            out.flags |= RouteFlags::CARRIER;
        }
    }

    /// Inode number of the socket file; 0 without a file (orphans, not yet accepted).
    #[inline(always)]
    fn inode(&self) -> u64 {
        if layout!(sk_ino) != ABSENT {
            return self.at(layout!(sk_ino));
        }
        match self.at::<u64>(layout!(sk_socket)) {
            0 => 0,
            socket => peek(socket + u64::from(layout!(socket_inode))),
        }
    }

    /// Id of the cgroup the socket was created in; 0 if unknown.
    #[inline(always)]
    fn cgroup(&self) -> u64 {
        self.cgroup_by_reading()
    }

    /// As [`Socket::cgroup`], where typed pointers are not available. On 5.10 tag bits in the pointer mean
    /// that the socket has no cgroup of its own.
    #[inline(always)]
    fn cgroup_by_reading(&self) -> u64 {
        if layout!(sk_cgrp_data) == ABSENT
            || layout!(cgroup_kn) == ABSENT
            || layout!(kn_id) == ABSENT
        {
            return 0;
        }
        let cgroup = self.word(layout!(sk_cgrp_data));
        if cgroup == 0 || cgroup & u64::from(layout!(cgroup_tag_mask)) != 0 {
            return 0;
        }
        let node: u64 = peek(cgroup + u64::from(layout!(cgroup_kn)));
        peek(node + u64::from(layout!(kn_id)))
    }
}

/// A socket of which only a few fields are needed: each field is a separate read.
pub struct Direct(pub u64);

impl Socket for Direct {
    #[inline(always)]
    fn at<T: Default>(&self, offset: u32) -> T {
        peek(self.0 + u64::from(offset))
    }

    #[inline(always)]
    fn net_at<T: Default>(&self, offset: u32) -> T {
        peek(self.at::<u64>(layout!(skc_net)) + u64::from(offset))
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> u64 {
        self.at(offset)
    }

    #[inline(always)]
    fn time(&self) -> u64 {
        // SAFETY: no arguments, no side effects.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// A copy of a socket in this CPU's scratch memory, valid while `owner` is ours.
pub struct Copy {
    scratch: *mut Scratch,
    owner: u64,
}

impl Copy {
    /// Copies `length` bytes of the socket at `sk`; `None` if it cannot be read.
    #[inline(always)]
    pub fn of(sk: u64, length: u32) -> Option<Self> {
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: no arguments, no side effects.
        let owner = unsafe { bpf_ktime_get_ns() };
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
            count_loss(Loss::Unreadable);
            return None;
        }
        Some(Self { scratch, owner })
    }

    /// Whether no other program has used the scratch memory since.
    #[inline(always)]
    pub fn is_intact(&self) -> bool {
        // SAFETY: `scratch` is this CPU's map value.
        unsafe { core::ptr::read_volatile(&raw const (*self.scratch).owner) == self.owner }
    }
}

impl Socket for Copy {
    #[inline(always)]
    fn at<T: Default>(&self, offset: u32) -> T {
        // SAFETY: user space checks that every field ends below the copied length, and the
        // verifier checks the access against the map value again.
        unsafe {
            (&raw const (*self.scratch).sock)
                .cast::<u8>()
                .add(offset as usize)
                .cast::<T>()
                .read_volatile()
        }
    }

    #[inline(always)]
    fn net_at<T: Default>(&self, offset: u32) -> T {
        peek(self.at::<u64>(layout!(skc_net)) + u64::from(offset))
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> u64 {
        self.at(offset)
    }

    #[inline(always)]
    fn time(&self) -> u64 {
        self.owner
    }
}

/// Reads the socket at `sk` into `id`, `settings`, `after` and `route` of `record`, which need not be a valid
/// record yet. Retries if another program took over the scratch memory; if that fails it counts a loss
/// and returns false.
#[inline(never)]
pub fn read(sk: u64, timer: Timer, record: *mut Record) -> bool {
    for _ in 0..3 {
        let Some(copy) = Copy::of(sk, layout!(copy_len)) else {
            return false;
        };
        // SAFETY: `record` is a slot of the ring or a map value; nothing is read from it.
        unsafe {
            copy.identity(sk, place(&raw mut (*record).id));
            copy.settings(place(&raw mut (*record).settings));
            copy.sample(timer, place(&raw mut (*record).after));
            copy.route(place(&raw mut (*record).route));
        }
        if copy.is_intact() {
            return true;
        }
    }
    count_loss(Loss::Scratch);
    false
}

/// Memory for a `T`, with any contents.
///
/// # Safety
/// `pointer` is valid for writes, and nothing else uses that memory meanwhile.
#[inline(always)]
pub unsafe fn place<'a, T>(pointer: *mut T) -> &'a mut MaybeUninit<T> {
    // SAFETY: as above.
    unsafe { &mut *pointer.cast() }
}

/// Zeroes word by word: a struct assignment would become a call of a byte-wise `memset`.
#[inline(always)]
pub fn clear<T>(value: &mut MaybeUninit<T>) -> &mut T
where
    T: zerocopy::FromZeros,
{
    let words = value.as_mut_ptr().cast::<u64>();
    for index in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: inside `value`, whose size is a multiple of words and which is aligned as a word.
        unsafe { words.add(index).write_volatile(0) };
    }
    // SAFETY: all zero is a value of T.
    unsafe { value.assume_init_mut() }
}

/// An IPv4 address as IPv4-mapped IPv6.
#[inline(always)]
fn mapped(v4: u32) -> [u64; 2] {
    [0, u64::from(V4_MAPPED) | u64::from(v4) << 32]
}

/// Whether an address is IPv4, mapped.
#[inline(always)]
pub fn is_v4(address: [u64; 2]) -> bool {
    address[0] == 0 && address[1] as u32 == V4_MAPPED
}

/// Two words in memory order.
#[inline(always)]
fn bytes(words: [u64; 2]) -> [u8; 16] {
    // SAFETY: both are 16 bytes of plain data.
    unsafe { core::mem::transmute(words) }
}
