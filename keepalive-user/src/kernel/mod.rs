//! # What kernel is this
//!
//! Its BTF, the layout of its sockets, and the test that the layout is right.

pub mod btf;
pub mod layout;
