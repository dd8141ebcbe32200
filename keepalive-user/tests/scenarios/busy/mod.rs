//! # Many sockets, and readers that do not read
//!
//! Every loss is counted, and a trace ends promptly.

pub mod in_step;
pub mod scale;
pub mod shutdown;
pub mod stopping;
