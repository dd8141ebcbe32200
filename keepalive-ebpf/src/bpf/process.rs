//! The current task's process, in hooks where it is the one that acts on the socket.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use keepalive_ebpf::{
    Record, RecordFlags,
    kernel::{PF_KTHREAD, SHUTDOWN_MASK, state},
};

use crate::{maps::layout, socket::peek};

/// Whether the change to CLOSE comes from `tcp_close` discarding unread data or with a linger time of 0:
/// it has shut down both directions before, and no other path leaves these states with both shut down. So
/// the current task closes the last descriptor; with `ss -K` (`tcp_abort`) it does not own the socket.
#[inline(always)]
pub fn is_closing(record: &Record) -> bool {
    record.after.owned
        && record.id.shutdown == SHUTDOWN_MASK
        && matches!(
            record.from_state,
            state::ESTABLISHED | state::SYN_SENT | state::CLOSE_WAIT
        )
}

/// Records the current task's process, unless it is a kernel thread. The name is that of the thread group
/// leader, as in /proc/PID/comm: a thread may have its own name.
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
