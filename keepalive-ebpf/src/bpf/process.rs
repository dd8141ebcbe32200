//! The current task's process, where it is the one that acts on the socket.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use keepalive_ebpf::{Record, RecordFlags};

use crate::{maps::layout, socket::peek};

/// `include/linux/sched.h`, the same in every kernel.
const PF_KTHREAD: u32 = 0x0020_0000;

/// `include/net/tcp_states.h`, the same in every kernel.
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE_WAIT: u8 = 8;

/// Whether the change to CLOSE is `tcp_close` discarding unread data or lingering for no time: it
/// has shut both directions before, and no other way leads from these states with both shut. So
/// the current task lets go of the last descriptor; with `ss -K` (`tcp_abort`) it is a stranger.
#[inline(always)]
pub fn is_closing(record: &Record) -> bool {
    const BOTH: u8 = 3;
    record.after.owned
        && record.id.shutdown == BOTH
        && matches!(
            record.from_state,
            TCP_ESTABLISHED | TCP_SYN_SENT | TCP_CLOSE_WAIT
        )
}

/// Names the current task's process, unless it is a kernel thread. By the name of the group's
/// leader, as /proc/PID/comm: a thread may have a name of its own.
#[inline(always)]
pub fn name_process(record: &mut Record) {
    // SAFETY: no arguments, no side effects.
    let task = unsafe { bpf_get_current_task() };
    if peek::<u32>(task + u64::from(layout!(task_flags))) & PF_KTHREAD != 0 {
        return;
    }
    record.flags |= RecordFlags::PROCESS_CONTEXT;
    record.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    record.comm = process_name(task);
}

#[inline(always)]
pub fn process_name(task: u64) -> [u8; 16] {
    let leader: u64 = peek(task + u64::from(layout!(task_group_leader)));
    peek(leader + u64::from(layout!(task_comm)))
}
