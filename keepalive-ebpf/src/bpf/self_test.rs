//! The programs of the self-test: they read its socket exactly as for an event, and find the offsets of
//! its timers.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use keepalive_ebpf::{Kind, Record};

use crate::{
    maps::{SELF_TEST, layout},
    process::process_name,
    socket::{self, Direct, Socket as _, Timer, peek},
};

/// `timer_start` of any timer while a self-test runs: shows the addresses of the test socket's timers.
#[inline(always)]
pub fn timer_start(timer: u64) {
    let Some(test) = SELF_TEST.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a map value; user space reads it only after the test's system calls returned.
    let test = unsafe { &mut *test };
    // SAFETY: an integer at an address valid for its size and alignment.
    let sk = unsafe { (*(&raw const test.record).cast::<Record>()).id.sk };
    if test.peer_port == 0 || sk == 0 {
        return;
    }
    let function = peek(timer + u64::from(layout!(timer_function)));
    if timer == sk + u64::from(layout!(keepalive_timer)) {
        test.keepalive_function = function;
    } else if timer == sk + u64::from(layout!(write_timer)) {
        test.write_function = function;
    }
}

/// Reads the socket under test exactly as for an event; the state is still the old one.
#[inline(always)]
pub fn state_change(sk: u64) {
    let Some(test) = SELF_TEST.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a map value; user space reads it only after the test's system calls returned.
    let test = unsafe { &mut *test };
    if test.peer_port == 0 {
        return;
    }
    let socket = Direct(sk);
    if u32::from(socket.peer_port()) == test.peer_port
        && socket.net_at::<u32>(layout!(net_inum)) == test.netns
        && let record = (&raw mut test.record).cast::<Record>()
        && socket::read(sk, Timer::Keepalive, record)
    {
        // SAFETY: no arguments, no side effects.
        let task = unsafe { bpf_get_current_task() };
        // SAFETY: the memory has the size and alignment of a record; nothing is read from it. Fields
        // that are not set are zero.
        unsafe {
            (*record).kind = Kind::Polled;
            (*record).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
            (*record).comm = process_name(task);
        }
        test.task_flags = peek(task + u64::from(layout!(task_flags)));
        test.write_expires = socket.at(layout!(write_expires));
        let behind: u64 = socket.at(layout!(sk_socket));
        test.socket_sk = peek(behind + u64::from(layout!(socket_sk)));
        test.state_changes += 1;
    }
}
