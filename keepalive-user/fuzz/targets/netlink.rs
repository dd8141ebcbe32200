//! Any bytes as a datagram of sock_diag: sockets, as `list` prints them, or nothing.
#![no_main]

use keepalive_user::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::netlink(bytes));
