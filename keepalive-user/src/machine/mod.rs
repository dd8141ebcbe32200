//! # Machine
//!
//! Everything that touches the operating system: BPF programs, /proc, netlink, namespaces, files,
//! signals, the terminal, and the one live session that all live commands run. The meaning of events is
//! in `core`, their format in `output`.

pub mod audit;
pub mod bpf;
pub mod clock;
pub mod descriptors;
pub mod diagnostics;
pub mod doctor;
pub mod files;
pub mod listing;
pub mod namespace;
pub mod owners;
pub mod parallel;
pub mod privileges;
pub mod queue;
pub mod readiness;
pub mod recorder;
pub mod sandbox;
pub mod screen;
pub mod session;
pub mod stop;
mod syscall;
pub mod terminal;
