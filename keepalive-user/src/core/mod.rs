//! # Core
//!
//! The pure half of the program: records in, events out, and every decision based on
//! them. The clock, the file system and the kernel come in as arguments. No libc, no files, no
//! threads, no aya, no tokio, and no imports from the layers above. Only seeds of hashes are random, because
//! a recording can choose the keys; no result depends on them.

#![forbid(unsafe_code)]

pub mod arithmetic;
pub mod clock;
pub mod convert;
pub mod decisions;
pub mod event;
pub mod exit;
pub mod filter;
pub mod format;
pub mod ledger;
pub mod neighbours;
pub mod order;
pub mod outlook;
pub mod owners;
pub mod pipeline;
pub mod recording;
pub mod replay;
pub mod rows;
pub mod rules;
pub mod sample;
pub mod sysctls;
pub mod target;
pub mod tracker;
pub mod wire;

pub use keepalive_ebpf::kernel;
