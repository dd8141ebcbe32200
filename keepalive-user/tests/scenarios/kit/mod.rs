//! # The kit
//!
//! What scenarios are made of: sockets, links, namespaces, processes; the tracer under test, its events,
//! and witnesses that are not the tracer. Nothing here is a scenario.

pub mod browser;
pub mod diag;
pub mod event;
pub mod expect;
pub mod leftovers;
pub mod link;
pub mod listing;
pub mod net;
pub mod process;
pub mod rtnetlink;
pub mod socket;
pub mod ss;
pub mod sys;
pub mod tracer;
pub mod watch;
pub mod witness;
pub mod worker;
