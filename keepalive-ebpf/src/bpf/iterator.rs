//! The listing: the kernel iterates over all TCP sockets of one network namespace (`iter/tcp`), or over
//! all open files (`iter/task_file`), and calls these programs for each, in the context of the reading
//! process.
//!
//! Full sockets are read through typed pointers, which needs one load per field and no scratch memory.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::seq_file,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_seq_write, bpf_skc_to_tcp_sock},
};
use keepalive_ebpf::{
    ABSENT, Known, Mptcp, OpenSocket, Snapshot, SnapshotKind,
    kernel::{ICSK_ACK_TIMER, S_IFMT, S_IFSOCK, state},
};

use crate::{
    maps::layout,
    socket::{Copy, Socket, Timer, clear, peek, place},
};

/// `struct bpf_iter_meta`.
#[repr(C)]
struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__tcp`: the context of these programs. The verifier knows the types of the
/// pointers.
#[repr(C)]
pub struct TcpContext {
    meta: *const Meta,
    sk_common: *mut c_void,
    uid: u32,
}

/// `struct bpf_iter__task_file`.
#[repr(C)]
pub struct FileContext {
    meta: *const Meta,
    task: *const c_void,
    fd: u32,
    file: *const c_void,
}

/// The field at an offset of the layout, through a pointer whose type the verifier knows.
#[inline(always)]
fn load<T>(pointer: *const c_void, offset: u32) -> T {
    // SAFETY: the verifier checks the offset against the pointer's type, and a load that faults
    // gives zero.
    unsafe {
        pointer
            .cast::<u8>()
            .add(offset as usize)
            .cast::<T>()
            .read_volatile()
    }
}

/// A `struct tcp_sock` or `struct sock_common`, locked or referenced by the kernel during the call.
struct Typed(*const c_void);

impl Socket for Typed {
    #[inline(always)]
    fn at<T: Default>(&self, offset: u32) -> T {
        load(self.0, offset)
    }

    #[inline(always)]
    fn net_at<T: Default>(&self, offset: u32) -> T {
        load(load(self.0, layout!(skc_net)), offset)
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> u64 {
        peek(self.0 as u64 + u64::from(offset))
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        if layout!(sk_cgrp_data) == ABSENT
            || layout!(cgroup_kn) == ABSENT
            || layout!(kn_id) == ABSENT
            || layout!(cgroup_tag_mask) != 0
        {
            return self.cgroup_by_reading();
        }
        let cgroup: *const c_void = load(self.0, layout!(sk_cgrp_data));
        load(load(cgroup, layout!(cgroup_kn)), layout!(kn_id))
    }

    #[inline(always)]
    fn time(&self) -> u64 {
        // SAFETY: no arguments, no side effects.
        unsafe { bpf_ktime_get_ns() }
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
extern "C" fn list_tcp(ctx: *const TcpContext) -> i32 {
    // SAFETY: the kernel calls with a valid context; the verifier checks every access to it.
    let (sk, uid, meta) = unsafe { ((*ctx).sk_common, (*ctx).uid, (*ctx).meta) };
    // After the last socket the kernel calls once more, without a socket.
    if sk.is_null() {
        return 0;
    }
    let mut slot = MaybeUninit::uninit();
    let snapshot: &mut Snapshot = clear(&mut slot);
    snapshot.uid = uid;
    let state = load::<u8>(sk, layout!(skc_state));
    if state == state::TIME_WAIT || state == state::NEW_SYN_RECV {
        let Some(copy) = Copy::of(sk as u64, layout!(mini_copy_len)) else {
            return 0;
        };
        small(&copy, sk as u64, state, snapshot);
        if !copy.is_intact() {
            // Another program took over the scratch memory: ask the kernel to call again.
            return 1;
        }
    } else {
        // SAFETY: the verifier knows that `sk` is a `struct sock_common`.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk) };
        if tcp.is_null() {
            return 0;
        }
        full(&Typed(tcp.cast()), sk as u64, snapshot);
    }
    write(meta, snapshot);
    0
}

/// If the kernel's buffer is full it calls again with the same object, once there is space.
#[inline(always)]
fn write<T>(meta: *const Meta, record: &T) {
    // SAFETY: `seq` comes from the context, the record is on our stack.
    unsafe {
        bpf_seq_write(
            (*meta).seq,
            core::ptr::from_ref(record).cast_mut().cast(),
            size_of::<T>() as u32,
        )
    };
}

#[inline(always)]
fn full(tcp: &Typed, sk: u64, out: &mut Snapshot) {
    out.kind = SnapshotKind::Socket;
    out.known = Known::all();
    // SAFETY: a field of `out`, to which no other reference is used meanwhile.
    tcp.identity(sk, unsafe { place(&raw mut out.id) });
    // SAFETY: as above.
    tcp.settings(unsafe { place(&raw mut out.settings) });
    // SAFETY: as above.
    tcp.sample(Timer::Keepalive, unsafe { place(&raw mut out.sample) });
    out.write_expires = tcp.at(layout!(write_expires));
    out.delack_expires = tcp.at(layout!(delack_expires));
    out.delack_pending = tcp.at::<u8>(layout!(icsk_ack_pending)) & ICSK_ACK_TIMER != 0;
    (out.receive_queue, out.send_queue) = if out.id.state == state::LISTEN {
        (
            tcp.at(layout!(sk_ack_backlog)),
            tcp.at(layout!(sk_max_ack_backlog)),
        )
    } else {
        // As `tcp_diag_get_info`: the difference may be negative after a FIN.
        let waiting = tcp
            .at::<u32>(layout!(rcv_nxt))
            .wrapping_sub(tcp.at(layout!(copied_seq)));
        (
            if waiting as i32 > 0 { waiting } else { 0 },
            out.sample.write_seq.wrapping_sub(out.sample.snd_una),
        )
    };
}

/// A socket in TIME_WAIT or SYN_RECV: a timer and few other fields. Copied, because the helpers that
/// return typed pointers to these were added in different kernels.
#[inline(always)]
fn small(copy: &Copy, sk: u64, state: u8, out: &mut Snapshot) {
    out.known = Known::ALL_TIMERS;
    out.id.sk = sk;
    // SAFETY: a field of `out`, to which no other reference is used meanwhile.
    copy.addresses(unsafe { place(&raw mut out.id) });
    out.id.local_port = copy.at(layout!(skc_num));
    out.id.mptcp = Mptcp::Unknown;
    out.sample.time = copy.time();
    // SAFETY: no arguments, no side effects.
    out.sample.jiffies = unsafe { bpf_jiffies64() };
    out.sample.timer_pending = true;
    if state == state::TIME_WAIT {
        out.kind = SnapshotKind::TimeWait;
        out.id.state = copy.at(layout!(tw_substate));
        out.sample.expires = copy.at(layout!(tw_expires));
    } else {
        out.kind = SnapshotKind::Request;
        // NEW_SYN_RECV is internal: `ss` and `netstat` show SYN_RECV.
        out.id.state = state::SYN_RECV;
        out.sample.expires = copy.at(layout!(rsk_expires));
        out.sample.retransmits = copy.at(layout!(rsk_num_retrans));
    }
}

/// Open files that are sockets, of any family.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn list_files(ctx: *const FileContext) -> i32 {
    // SAFETY: the kernel calls with a valid context; the verifier checks every access to it.
    let (meta, task, fd, file) = unsafe { ((*ctx).meta, (*ctx).task, (*ctx).fd, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let inode: *const c_void = load(file, layout!(file_inode));
    if load::<u16>(inode, layout!(inode_mode)) & S_IFMT != S_IFSOCK {
        return 0;
    }
    let open = OpenSocket {
        inode: load(inode, layout!(inode_number)),
        tgid: load(task, layout!(task_tgid)),
        fd,
    };
    write(meta, &open);
    0
}
