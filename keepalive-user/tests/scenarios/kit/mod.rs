//! # The kit
//!
//! The building blocks of scenarios: sockets, links, namespaces, processes, the tracer under test,
//! its events, and witnesses independent of the tracer. Scenarios do not belong here.

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
