//! The interface between the two sides of `keepalive`: the records and snapshots that the BPF programs
//! write, the globals that user space sets before load, and the constants of the kernel. Plain
//! `#[repr(C)]` data, no padding, no behaviour. Each kind, flag, loss and result is defined here and
//! nowhere else.
//!
//! The programs themselves are the binary target next to this library (`src/bpf/`).
#![no_std]

mod config;
pub mod kernel;
mod layout;
mod outcome;
mod record;
mod snapshot;

pub use config::*;
pub use layout::*;
pub use outcome::*;
pub use record::*;
pub use snapshot::*;
