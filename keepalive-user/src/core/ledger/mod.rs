//! # The ledger
//!
//! State over time, folded from events: of a trace, and of one socket. Every output that counts
//! or follows sockets uses it.

mod closes;
mod counts;
mod history;
mod seen;
mod window;

pub use self::{
    closes::Closes,
    counts::Counts,
    history::{Data, History, Last, Probe, ProbeResult, Suppressed},
    seen::Seen,
    window::{Phase, ZeroWindows},
};

#[cfg(test)]
mod tests;
