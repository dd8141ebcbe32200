//! The program that user space runs itself (`BPF_PROG_TEST_RUN`, for raw tracepoints since 5.10) to read
//! one socket. It is not attached to a hook.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::hooks;

/// The argument is the address of a `struct sock`, taken from a record.
#[raw_tracepoint(tracepoint = "timer_start")]
pub fn poll_socket(ctx: RawTracePointContext) -> i32 {
    hooks::poll_socket(ctx.arg(0)) as i32
}
