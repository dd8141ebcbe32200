//! # Many sockets, and readers that do not read
//!
//! Nothing is lost uncounted, and a trace ends when it is to.

pub mod in_step;
pub mod scale;
pub mod shutdown;
pub mod stopping;
