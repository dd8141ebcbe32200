//! # The harness
//!
//! Runs scenarios and judges their results. It refers to individual scenarios only in its two
//! tables of exceptions.

pub mod applicability;
pub mod arguments;
pub mod bench;
pub mod printer;
pub mod quarantine;
pub mod run;
pub mod stalls;
pub mod suite;
