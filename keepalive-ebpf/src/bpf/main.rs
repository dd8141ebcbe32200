//! # The BPF side
//!
//! `fentry.rs` and `tracepoint.rs` are the two backends: entry points that take the socket from
//! their arguments and call a hook body. `hooks.rs` has the bodies, which are independent of the backend.
//! `iterator.rs` lists all sockets, `poll.rs` reads one on request. `socket.rs` reads a socket, `maps.rs`
//! has all shared state. User space loads the programs of one backend only, or the iterator.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod end;
mod fentry;
mod hooks;
mod iterator;
mod maps;
mod poll;
mod process;
mod self_test;
mod socket;
mod tracepoint;

/// The kernel allows its GPL-only helpers (`bpf_probe_read_kernel`, …) only with a GPL licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// On the host this target exists only for `cargo check` and clippy.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
