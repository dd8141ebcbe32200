//! Everything the programs share: the globals that user space sets, the ring, and the per-CPU
//! notes that connect the entry of a kernel function with its exit.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use keepalive_ebpf::{
    Filter, KernelLayout, Loss, RecordFlags, SOCK_COPY_MAX, SelfTest, TcpSample, TimerFunctions,
};

/// The offsets of the kernel's fields. Read through [`layout!`], field by field, so that the
/// verifier sees constants.
#[unsafe(no_mangle)]
pub static LAYOUT: Global<KernelLayout> = Global::new(LAYOUT_UNSET);

/// Which sockets to report.
#[unsafe(no_mangle)]
pub static FILTER: Global<Filter> = Global::new(FILTER_UNSET);

/// [`RecordFlags::WAKEUP_WATCHED`] if the loaded backend hooks `tcp_write_wakeup`, else none.
#[unsafe(no_mangle)]
pub static BACKEND_FLAGS: Global<RecordFlags> = Global::new(RecordFlags::empty());

/// 1 = diagnostics through aya-log (`-v`); 0 lets the verifier remove them.
#[unsafe(no_mangle)]
pub static VERBOSE: Global<u32> = Global::new(0);

// Zeros: user space always sets them before load.
const LAYOUT_UNSET: KernelLayout =
    // SAFETY: both types are plain integers, for which all-zero is a value.
    unsafe { core::mem::zeroed() };
// SAFETY: as above.
const FILTER_UNSET: Filter = unsafe { core::mem::zeroed() };

/// One field of [`LAYOUT`] or [`FILTER`]: a volatile load of that field alone, which the verifier
/// replaces by its value because the map behind it is frozen.
macro_rules! constant {
    ($global:ident : $type:ty, $field:ident) => {{
        let global = (&raw const $crate::maps::$global).cast::<$type>();
        // SAFETY: `Global<T>` is a transparent wrapper of T, so the field is there.
        unsafe { core::ptr::read_volatile(&raw const (*global).$field) }
    }};
}
macro_rules! layout {
    ($field:ident) => {
        $crate::maps::constant!(LAYOUT: keepalive_ebpf::KernelLayout, $field)
    };
}
macro_rules! filter {
    ($field:ident) => {
        $crate::maps::constant!(FILTER: keepalive_ebpf::Filter, $field)
    };
}
pub(crate) use {constant, filter, layout};

/// The ring buffer for records. User space sets its size before load.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Losses, per CPU, by [`Loss`].
#[map]
pub static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::COUNT, 0);

/// Counts a loss on this CPU.
#[inline(always)]
pub fn count_loss(loss: Loss) {
    if let Some(count) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: this CPU's map value. A program that preempts this one may count meanwhile, and its
        // count may be lost: Rust has no atomics for BPF.
        unsafe { *count += 1 };
    }
}

/// A copy of one socket, to read fields from.
#[repr(C)]
pub struct Scratch {
    /// The user of the copy: unique for each use, because a program can be interrupted or preempted
    /// by another one on the same CPU.
    pub owner: u64,
    pub sock: [u8; SOCK_COPY_MAX],
}

#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What is noted from the entry of a kernel function until its exit, on one CPU.
#[repr(C)]
pub struct InFlight {
    /// The socket; 0 = none.
    pub sk: u64,
    /// Return value of `tcp_write_wakeup`, if `wakeup_seen`.
    pub wakeup_result: i32,
    pub wakeup_seen: bool,
    /// `icsk_pending` at entry (write timer only).
    pub pending: u8,
    pub reserved: [u8; 2],
    pub before: TcpSample,
}

/// Index: the `IN_` constants.
#[map]
pub static IN_FLIGHT: PerCpuArray<InFlight> = PerCpuArray::with_max_entries(IN_KINDS, 0);

/// `tcp_keepalive_timer`.
pub const IN_KEEPALIVE_TIMER: u32 = 0;
/// `tcp_write_timer_handler` (`tcp_write_timer` by tracepoint).
pub const IN_WRITE_TIMER: u32 = 1;
/// `tcp_ack`.
pub const IN_ACK: u32 = 2;
/// `tcp_finish_connect`, from its state change until it arms the timer (tracepoint only).
pub const IN_CONNECT: u32 = 3;
const IN_KINDS: u32 = 4;

/// Sockets reported while SO_KEEPALIVE was off (zero-window probes, keepalive switched off): the
/// flag does not mark them as tracked when they end.
#[map]
pub static REPORTED: HashMap<u64, u8> = HashMap::with_max_entries(16384, 0);

#[map]
pub static SELF_TEST: Array<SelfTest> = Array::with_max_entries(1, 0);

#[map]
pub static TIMER_FUNCTIONS: Array<TimerFunctions> = Array::with_max_entries(1, 0);
