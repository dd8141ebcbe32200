//! # Limits
//!
//! What a kernel, a user or a command line does not allow, and what a running command has given up.

pub mod hard_cases;
pub mod refusals;
pub mod sandbox;
