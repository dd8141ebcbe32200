//! # Benchmarks
//!
//! Run by `cargo xtask bench`, never with the scenarios.

pub mod list;
pub mod load;
