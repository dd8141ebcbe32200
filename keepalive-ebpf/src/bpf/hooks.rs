//! The hook bodies: they note data at the entry of a kernel function, and report at its exit. They take
//! the socket's address and are independent of the backend that calls them.

use aya_ebpf::{EbpfContext, helpers::bpf_get_smp_processor_id};
use keepalive_ebpf::{
    Kind, Loss, PollResult, Record, RecordFlags, Within,
    kernel::{AF_INET, AF_INET6, IPPROTO_TCP, pending, state},
};

use crate::{
    end,
    maps::{
        BACKEND_FLAGS, EVENTS, IN_ACK, IN_CONNECT, IN_FLIGHT, IN_KEEPALIVE_TIMER, IN_WRITE_TIMER,
        InFlight, REPORTED, TIMER_FUNCTIONS, count_loss, filter, layout,
    },
    process::name_process,
    self_test,
    socket::{self, Copy, Direct, Socket as _, Timer, is_v4, peek},
};

/// The retransmission after which the owner of an established socket is announced: fewer are ordinary
/// losses.
const ANNOUNCED: u8 = 3;

/// Diagnostics through aya-log, removed by the verifier unless `-v`.
macro_rules! verbose {
    ($ctx:expr, $($arg:tt)*) => {
        if $crate::maps::VERBOSE.load() != 0 {
            aya_log_ebpf::debug!($ctx, $($arg)*);
        }
    };
}

pub(crate) use verbose;

/// Entry of `tcp_keepalive_timer`, before the socket lock is taken.
#[inline(always)]
pub fn keepalive_timer_enter(sk: u64) {
    note_entry(IN_KEEPALIVE_TIMER, sk, 0, Some(Timer::Keepalive));
}

/// Exit of `tcp_keepalive_timer`: one record per run.
#[inline(always)]
pub fn keepalive_timer_exit<C: EbpfContext>(ctx: &C, sk: u64) {
    if let Some(noted) = take(IN_KEEPALIVE_TIMER, sk) {
        verbose!(
            ctx,
            "tcp_keepalive_timer: probes_out {} before",
            noted.before.probes_out
        );
        let reported = report(sk, Timer::Keepalive, Kind::KeepaliveTimer, |record| {
            conclude(record, noted);
        });
        if !reported {
            let before = &noted.before;
            let probes_out: u8 = peek(sk + u64::from(layout!(icsk_probes_out)));
            let is_busy = before.packets_out > 0 || before.write_seq != before.snd_nxt;
            if !is_busy && probes_out == before.probes_out.wrapping_add(1) {
                count_loss(Loss::RingProbes);
            }
        }
    }
}

/// Entry of `tcp_write_timer_handler`, which serves retransmission and zero-window probes.
#[inline(always)]
pub fn write_timer_enter(sk: u64) {
    let pending: u8 = peek(sk + u64::from(layout!(icsk_pending)));
    match pending {
        pending::RETRANS => note_entry(IN_WRITE_TIMER, sk, pending, None),
        pending::PROBE0 => note_entry(IN_WRITE_TIMER, sk, pending, Some(Timer::Write)),
        _ => {}
    }
}

/// Exit of `tcp_write_timer_handler`: a record if a zero-window probe was made.
#[inline(always)]
pub fn write_timer_exit<C: EbpfContext>(ctx: &C, sk: u64) {
    let Some(noted) = take(IN_WRITE_TIMER, sk) else {
        return;
    };
    if noted.pending == pending::RETRANS {
        // Once, before the timer gives up, so that its owner can be found while it has one.
        let retransmits: u8 = peek(sk + u64::from(layout!(icsk_retransmits)));
        let announced = if state(sk) == state::SYN_SENT {
            1
        } else {
            ANNOUNCED
        };
        if retransmits == announced {
            report(sk, Timer::Keepalive, Kind::Owner, |_| {});
        }
        return;
    }
    // A run that only found its deadline moved changes nothing.
    let probes_out: u8 = peek(sk + u64::from(layout!(icsk_probes_out)));
    if !noted.wakeup_seen && probes_out == noted.before.probes_out {
        return;
    }
    verbose!(ctx, "zero-window probe: probes_out {}", probes_out);
    let keepopen = flags(sk) & layout!(flag_keepopen) != 0;
    if !keepopen {
        remember_reported(sk);
    }
    report(sk, Timer::Write, Kind::WindowProbe, |record| {
        conclude(record, noted);
    });
}

/// Exit of `tcp_write_wakeup`: the only function that sends a probe.
#[inline(always)]
pub fn write_wakeup_exit(sk: u64, result: i32) {
    for index in [IN_KEEPALIVE_TIMER, IN_WRITE_TIMER] {
        if let Some(noted) = find(index, sk) {
            noted.wakeup_result = result;
            noted.wakeup_seen = true;
            return;
        }
    }
}

/// `inet_sock_set_state`: the socket is about to change state, under its lock or still private.
/// MPTCP, SCTP and DCCP call it too, with sockets that are not a `struct tcp_sock`.
#[inline(always)]
pub fn state_change<C: EbpfContext>(ctx: &C, sk: u64, from: i32, to: i32) {
    if peek::<u16>(sk + u64::from(layout!(sk_protocol))) != IPPROTO_TCP {
        return;
    }
    let (from, to) = (from as u8, to as u8);
    if to == state::SYN_SENT || from == state::ESTABLISHED {
        self_test::state_change(sk);
    }
    match to {
        state::ESTABLISHED if flags(sk) & layout!(flag_keepopen) != 0 => {
            if from == state::SYN_SENT {
                note_entry(IN_CONNECT, sk, 0, None);
            }
            report(sk, Timer::Keepalive, Kind::Established, |record| {
                record.from_state = from;
                record.id.state = to;
            });
        }
        // `tcp_v4_connect`: in the context of the connecting process; the port may be chosen later.
        state::SYN_SENT if flags(sk) & layout!(flag_keepopen) != 0 => {
            report_process(sk, Kind::Owner, RecordFlags::empty());
        }
        state::FIN_WAIT1 | state::LAST_ACK
            if filter!(all_ends) != 0 || flags(sk) & layout!(flag_keepopen) != 0 =>
        {
            report_process(sk, Kind::Closing, RecordFlags::empty());
        }
        state::CLOSE => end::closed(ctx, sk, from),
        _ => {}
    }
}

/// Exit of `inet_accept`: the new socket has its file, and the accepting process is its first owner.
#[inline(always)]
pub fn accepted(socket: u64) {
    // Zero if there was no connection to accept.
    let sk: u64 = peek(socket + u64::from(layout!(socket_sk)));
    if sk == 0
        || peek::<u16>(sk + u64::from(layout!(sk_protocol))) != IPPROTO_TCP
        || flags(sk) & layout!(flag_keepopen) == 0
    {
        return;
    }
    report(sk, Timer::Keepalive, Kind::Owner, name_process);
}

/// Entry of `tcp_set_keepalive`: SO_KEEPALIVE is being set; the flag still has its old value.
#[inline(always)]
pub fn set_keepalive(sk: u64, on: bool) {
    let was_on = flags(sk) & layout!(flag_keepopen) != 0;
    if on == was_on || is_unarmed(state(sk)) {
        return;
    }
    if on {
        // From now on the flag marks the socket as tracked. Most sockets were never in the map.
        let _ = REPORTED.remove(sk);
    } else {
        remember_reported(sk);
    }
    report_process(
        sk,
        Kind::Setsockopt,
        if on {
            RecordFlags::SWITCHING_ON
        } else {
            RecordFlags::SWITCHING_OFF
        },
    );
}

/// Exit of `tcp_sock_set_keepidle_locked`: TCP_KEEPIDLE was set, the timer re-armed if it is on.
#[inline(always)]
pub fn set_keepidle(sk: u64) {
    if flags(sk) & layout!(flag_keepopen) != 0 && !is_unarmed(state(sk)) {
        report_process(sk, Kind::Setsockopt, RecordFlags::empty());
    }
}

/// `timer_start` of a keepalive timer, armed outside its own run.
#[inline(always)]
pub fn keepalive_timer_start(sk: u64) {
    if find(IN_KEEPALIVE_TIMER, sk).is_some() || take(IN_CONNECT, sk).is_some() {
        return;
    }
    let flags = flags(sk);
    let state = state(sk);
    // Accept arms in SYN_RECV, before the change to ESTABLISHED that reports it; an orphan's
    // timer is for FIN_WAIT2.
    if state == state::SYN_RECV || is_unarmed(state) || flags & layout!(flag_dead) != 0 {
        return;
    }
    let was_on = flags & layout!(flag_keepopen) != 0;
    report_process(
        sk,
        Kind::Setsockopt,
        if was_on {
            RecordFlags::empty()
        } else {
            RecordFlags::SWITCHING_ON
        },
    );
}

/// Entry of `tcp_ack`: on the hot path, so it returns at once unless a probe is outstanding.
#[inline(always)]
pub fn ack_enter(sk: u64) {
    let probes_out: u8 = peek(sk + u64::from(layout!(icsk_probes_out)));
    if probes_out != 0 {
        note_entry(IN_ACK, sk, 0, Some(Timer::Keepalive));
    }
}

/// Exit of `tcp_ack`: a record if `tcp_ack` reset the count of outstanding probes.
#[inline(always)]
pub fn ack_exit(sk: u64) {
    if let Some(noted) = take(IN_ACK, sk) {
        let probes_out: u8 = peek(sk + u64::from(layout!(icsk_probes_out)));
        if probes_out == 0 {
            report(sk, Timer::Keepalive, Kind::Ack, |record| {
                record.before = noted.before;
            });
        }
    }
}

/// Reports a socket that user space knows by its address. TCP sockets are in type-stable memory
/// (SLAB_TYPESAFE_BY_RCU), so the address contains a socket, this one or a later one, or it is free;
/// user space compares the identity.
#[inline(always)]
pub fn poll_socket(sk: u64) -> PollResult {
    let family: u16 = peek(sk + u64::from(layout!(skc_family)));
    let protocol: u16 = peek(sk + u64::from(layout!(sk_protocol)));
    let is_tcp = (family == AF_INET || family == AF_INET6) && protocol == IPPROTO_TCP;
    if !is_tcp || !is_wanted(sk) {
        return PollResult::Gone;
    }
    if report(sk, Timer::Keepalive, Kind::Polled, |_| {}) {
        PollResult::Reported
    } else {
        PollResult::RingFull
    }
}

/// Whether this is the address of `tcp_keepalive_timer`, which the self-test found.
#[inline(always)]
pub fn is_keepalive_timer(function: u64) -> bool {
    TIMER_FUNCTIONS
        .get(0)
        .is_some_and(|known| known.keepalive == function)
}

/// As [`is_keepalive_timer`], for `tcp_write_timer`.
#[inline(always)]
pub fn is_write_timer(function: u64) -> bool {
    TIMER_FUNCTIONS
        .get(0)
        .is_some_and(|known| known.write == function)
}

/// What the kernel is doing with this socket on this CPU.
#[inline(always)]
pub fn within(sk: u64) -> Within {
    if find(IN_KEEPALIVE_TIMER, sk).is_some() {
        return Within::KeepaliveTimer;
    }
    match find(IN_WRITE_TIMER, sk) {
        Some(noted) if noted.pending == pending::PROBE0 => Within::ProbeTimer,
        Some(_) => Within::RetransmitTimer,
        None => Within::Nothing,
    }
}

/// Notes on this CPU that a kernel function started to process `sk`.
#[inline(always)]
fn note_entry(index: u32, sk: u64, pending: u8, sample: Option<Timer>) {
    let Some(noted) = IN_FLIGHT.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: this CPU's map value; the functions noted here do not nest on one CPU.
    let noted = unsafe { &mut *noted };
    noted.sk = 0;
    if let Some(timer) = sample {
        let Some(copy) = Copy::of(sk, layout!(copy_len)) else {
            return;
        };
        // SAFETY: a field of this CPU's map value, to which no other reference is used meanwhile.
        copy.sample(timer, unsafe { socket::place(&raw mut noted.before) });
        if !copy.is_intact() {
            count_loss(Loss::Scratch);
            return;
        }
    }
    noted.wakeup_seen = false;
    noted.wakeup_result = 0;
    noted.pending = pending;
    noted.sk = sk;
}

/// The note about `sk` on this CPU, if there is one.
#[inline(always)]
pub fn find(index: u32, sk: u64) -> Option<&'static mut InFlight> {
    let noted = IN_FLIGHT.get_ptr_mut(index)?;
    // SAFETY: this CPU's map value, which lives as long as the program.
    let noted = unsafe { &mut *noted };
    (noted.sk == sk).then_some(noted)
}

/// As [`find`], and removes the note.
#[inline(always)]
fn take(index: u32, sk: u64) -> Option<&'static InFlight> {
    let noted = find(index, sk)?;
    noted.sk = 0;
    Some(noted)
}

/// Fills in what the entry hook and the nested hooks noted.
#[inline(always)]
fn conclude(record: &mut Record, noted: &InFlight) {
    record.before = noted.before;
    if noted.wakeup_seen {
        record.flags |= RecordFlags::WAKEUP_SEEN;
        record.wakeup_result = noted.wakeup_result;
    }
}

/// Reports a change made by the current task, which owns the socket then; if no task owns it, this is
/// an interrupt, and the current task was running by coincidence. A kernel thread (MPTCP's worker, a
/// delayed close) acts for another process.
#[inline(always)]
fn report_process(sk: u64, kind: Kind, flags: RecordFlags) {
    report(sk, Timer::Keepalive, kind, |record| {
        record.flags |= flags;
        if record.after.owned {
            name_process(record);
        }
    });
}

/// Sends one record, if the filter admits the socket; `fill` sets what the hook knows. False if the
/// record was lost because the ring is full.
#[inline(always)]
pub fn report(sk: u64, timer: Timer, kind: Kind, fill: impl FnOnce(&mut Record)) -> bool {
    // Before a slot is reserved: a filtered record must not take space in the ring, nor count as lost.
    if !is_wanted(sk) {
        return true;
    }
    let Some(mut entry) = EVENTS.reserve::<Record>(0) else {
        count_loss(Loss::Ring);
        return false;
    };
    let slot = entry.as_mut_ptr();
    if !socket::read(sk, timer, slot) {
        // Not with BPF_RB_NO_WAKEUP: the reader is woken for the slot that it waits for, which may be
        // this one.
        entry.discard(0);
        return true;
    }
    // SAFETY: the slot is ours until it is submitted. `read` has set `id`, `settings`, `after` and `route`,
    // the rest is set here, and only then is it used as a record.
    let record = unsafe {
        (*slot).kind = kind;
        (*slot).flags = BACKEND_FLAGS.load();
        (*slot).within = Within::Nothing;
        (*slot).from_state = 0;
        (*slot).wakeup_result = 0;
        (*slot).cpu = bpf_get_smp_processor_id();
        (*slot).tgid = 0;
        (*slot).comm = [0; 16];
        (*slot).exit_code = 0;
        (*slot).reserved = 0;
        socket::clear(socket::place(&raw mut (*slot).before));
        &mut *slot
    };
    fill(record);
    entry.submit(0);
    true
}

/// The filter. Constants determine which reads and comparisons exist at all.
#[inline(always)]
fn is_wanted(sk: u64) -> bool {
    let socket = Direct(sk);
    (filter!(local_port) == 0 || filter!(local_port) == socket.local_port())
        && (filter!(peer_port) == 0 || filter!(peer_port) == socket.peer_port())
        && (filter!(netns) == 0 || filter!(netns) == socket.net_at(layout!(net_inum)))
        && (filter!(cgroup) == 0 || filter!(cgroup) == socket.cgroup())
        && is_wanted_address(&socket)
}

#[inline(always)]
fn is_wanted_address(socket: &Direct) -> bool {
    let [high, low] = filter!(prefix_mask);
    if filter!(ip_version) == 0 && high == 0 && low == 0 {
        return true;
    }
    let [local, peer] = socket.ends(socket.at(layout!(skc_family)));
    let prefix = filter!(prefix);
    let in_prefix =
        |address: [u64; 2]| address[0] & high == prefix[0] && address[1] & low == prefix[1];
    (filter!(ip_version) == 0 || (filter!(ip_version) == 4) == is_v4(peer))
        && (in_prefix(local) || in_prefix(peer))
}

#[inline(always)]
fn remember_reported(sk: u64) {
    if is_wanted(sk) && REPORTED.insert(sk, 1, 0).is_err() {
        count_loss(Loss::Reported);
    }
}

#[inline(always)]
pub fn flags(sk: u64) -> u32 {
    peek(sk + u64::from(layout!(skc_flags)))
}

#[inline(always)]
fn state(sk: u64) -> u8 {
    peek(sk + u64::from(layout!(skc_state)))
}

/// States in which setting SO_KEEPALIVE arms no timer.
#[inline(always)]
fn is_unarmed(state: u8) -> bool {
    state == state::CLOSE || state == state::LISTEN
}
