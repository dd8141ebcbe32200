//! What the two sides of `keepalive` agree on: the records the BPF programs write, and the
//! globals user space injects before load. Plain `#[repr(C)]` data, no padding, no behaviour.
//!
//! The programs themselves are the binary target next to this library (`src/bpf/`).
#![no_std]

mod config;
mod layout;
mod record;

pub use config::*;
pub use layout::*;
pub use record::*;
