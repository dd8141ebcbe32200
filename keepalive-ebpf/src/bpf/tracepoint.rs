//! The tracepoint backend: raw tracepoints around every timer of the machine, which return at once
//! unless the timer is TCP's. For kernels or policies that do not allow trampolines. Raw tracepoints need
//! no tracefs and pass the kernel's own pointers.
//!
//! It does not observe the return of `tcp_write_wakeup`, nor a write timer deferred to `release_sock`.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{hooks, maps::layout, self_test, socket::try_peek};

/// The callback of a timer; a timer that cannot be read is counted as a loss.
#[inline(always)]
fn function_of(timer: u64) -> Option<u64> {
    try_peek(timer + u64::from(layout!(timer_function)))
}

#[raw_tracepoint(tracepoint = "timer_expire_entry")]
pub fn tp_timer_expire_entry(ctx: RawTracePointContext) -> i32 {
    let timer: u64 = ctx.arg(0);
    match function_of(timer) {
        Some(function) if hooks::is_keepalive_timer(function) => {
            hooks::keepalive_timer_enter(timer - u64::from(layout!(keepalive_timer)));
        }
        Some(function) if hooks::is_write_timer(function) => {
            hooks::write_timer_enter(timer - u64::from(layout!(write_timer)));
        }
        _ => {}
    }
    0
}

/// The timer may be re-armed or freed by now: only its address is used.
#[raw_tracepoint(tracepoint = "timer_expire_exit")]
pub fn tp_timer_expire_exit(ctx: RawTracePointContext) -> i32 {
    let timer: u64 = ctx.arg(0);
    hooks::keepalive_timer_exit(&ctx, timer - u64::from(layout!(keepalive_timer)));
    hooks::write_timer_exit(&ctx, timer - u64::from(layout!(write_timer)));
    0
}

#[raw_tracepoint(tracepoint = "timer_start")]
pub fn tp_timer_start(ctx: RawTracePointContext) -> i32 {
    let timer: u64 = ctx.arg(0);
    if function_of(timer).is_some_and(hooks::is_keepalive_timer) {
        hooks::keepalive_timer_start(timer - u64::from(layout!(keepalive_timer)));
    }
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tp_state_change(ctx: RawTracePointContext) -> i32 {
    hooks::state_change(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// Loaded only during the self-test, with either backend.
#[raw_tracepoint(tracepoint = "timer_start")]
pub fn self_test_timer_start(ctx: RawTracePointContext) -> i32 {
    self_test::timer_start(ctx.arg(0));
    0
}
