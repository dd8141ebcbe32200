//! The current task's process, in hooks where it is the one that acts on the socket.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task};
use keepalive_ebpf::{
    Record, RecordFlags,
    kernel::{PF_EXITING, PF_KTHREAD},
};

use crate::{maps::layout, socket::peek};

/// Records the current task's process, unless it is a kernel thread. The name is that of the thread group
/// leader, as in /proc/PID/comm: a thread may have its own name.
#[inline(always)]
pub fn name_process(record: &mut Record) {
    // SAFETY: no arguments, no side effects.
    let task = unsafe { bpf_get_current_task() };
    let flags: u32 = peek(task + u64::from(layout!(task_flags)));
    if flags & PF_KTHREAD != 0 {
        return;
    }
    record.flags |= RecordFlags::PROCESS_CONTEXT;
    // `do_exit` stores the code before it closes the files (`exit_files`, `exit_task_work`).
    if flags & PF_EXITING != 0 {
        record.flags |= RecordFlags::EXITING;
        record.exit_code = peek(task + u64::from(layout!(task_exit_code)));
    }
    record.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    record.comm = process_name(task);
}

#[inline(always)]
pub fn process_name(task: u64) -> [u8; 16] {
    let leader: u64 = peek(task + u64::from(layout!(task_group_leader)));
    peek(leader + u64::from(layout!(task_comm)))
}
