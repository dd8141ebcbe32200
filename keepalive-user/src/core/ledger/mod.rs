//! # The ledger
//!
//! What is known over time, folded from events: of a trace, and of one socket.

mod counts;

pub use self::counts::Counts;
