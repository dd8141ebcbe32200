//! # `keepalive list`
//!
//! Compares listings with `ss` and with the settings that the suite made.

pub mod namespaces;
pub mod sockets;
pub mod timers;
