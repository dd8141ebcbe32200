//! The fentry backend: BPF trampolines on the kernel's functions, which have no cost unless a
//! keepalive or write timer runs, and `tp_btf` where a tracepoint is the better hook.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};

use crate::{hooks, maps::layout};

/// The socket that contains a keepalive timer.
#[inline(always)]
fn socket_of(timer: u64) -> u64 {
    timer - u64::from(layout!(keepalive_timer))
}

#[fentry(function = "tcp_keepalive_timer")]
pub fn keepalive_timer_enter(ctx: FEntryContext) -> i32 {
    hooks::keepalive_timer_enter(socket_of(ctx.arg(0)));
    0
}

#[fexit(function = "tcp_keepalive_timer")]
pub fn keepalive_timer_exit(ctx: FExitContext) -> i32 {
    hooks::keepalive_timer_exit(&ctx, socket_of(ctx.arg(0)));
    0
}

#[fexit(function = "tcp_write_wakeup")]
pub fn write_wakeup_exit(ctx: FExitContext) -> i32 {
    // The return value follows the two arguments; the helper that reads it is newer than 5.10.
    hooks::write_wakeup_exit(ctx.arg(0), ctx.arg(2));
    0
}

#[fentry(function = "tcp_write_timer_handler")]
pub fn write_timer_enter(ctx: FEntryContext) -> i32 {
    hooks::write_timer_enter(ctx.arg(0));
    0
}

#[fexit(function = "tcp_write_timer_handler")]
pub fn write_timer_exit(ctx: FExitContext) -> i32 {
    hooks::write_timer_exit(&ctx, ctx.arg(0));
    0
}

#[fentry(function = "tcp_set_keepalive")]
pub fn set_keepalive(ctx: FEntryContext) -> i32 {
    let on: i32 = ctx.arg(1);
    hooks::set_keepalive(ctx.arg(0), on != 0);
    0
}

#[fexit(function = "tcp_sock_set_keepidle_locked")]
pub fn set_keepidle(ctx: FExitContext) -> i32 {
    let result: i32 = ctx.arg(2);
    if result == 0 {
        hooks::set_keepidle(ctx.arg(0));
    }
    0
}

/// The second argument is the new socket on every kernel; the later arguments differ.
#[fexit(function = "inet_accept")]
pub fn accepted(ctx: FExitContext) -> i32 {
    hooks::accepted(ctx.arg(1));
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_change(ctx: BtfTracePointContext) -> i32 {
    hooks::state_change(&ctx, ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// Hot path: loaded with `--live-answers` only.
#[fentry(function = "tcp_ack")]
pub fn ack_enter(ctx: FEntryContext) -> i32 {
    hooks::ack_enter(ctx.arg(0));
    0
}

/// As [`ack_enter`].
#[fexit(function = "tcp_ack")]
pub fn ack_exit(ctx: FExitContext) -> i32 {
    hooks::ack_exit(ctx.arg(0));
    0
}
