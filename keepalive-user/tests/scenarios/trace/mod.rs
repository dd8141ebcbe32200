//! # `keepalive trace`
//!
//! The life of one socket, and what the trace reports of it. Most scenarios share one tracer.

pub mod answered;
pub mod answers;
pub mod arithmetic;
pub mod arming;
pub mod certificates;
pub mod cgroups;
pub mod classics;
pub mod connecting;
pub mod cookies;
pub mod death;
pub mod ending;
pub mod families;
pub mod filters;
pub mod host;
pub mod owners;
pub mod recording;
pub mod silent;
pub mod states;
pub mod suppressed;
pub mod window;
