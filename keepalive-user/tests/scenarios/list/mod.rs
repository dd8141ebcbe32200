//! # `keepalive list`
//!
//! Listings, against `ss` and what the suite set.

pub mod namespaces;
pub mod sockets;
pub mod timers;
