//! # The harness
//!
//! Running scenarios and judging how they ended. It knows none of them, but for the two tables of
//! exceptions.

pub mod applicability;
pub mod arguments;
pub mod bench;
pub mod printer;
pub mod quarantine;
pub mod run;
pub mod stalls;
pub mod suite;
