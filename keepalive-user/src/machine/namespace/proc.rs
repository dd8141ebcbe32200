//! What /proc shows of the calling thread's network namespace.

use std::{fs, io};

use crate::{
    core::{event::Sysctls, format::name},
    machine::files,
};

/// Whether the calling thread's namespace may have TCP sockets. It saves a walk: the walk over the sockets
/// of one namespace visits those of all.
///
/// `inuse` counts the sockets in the kernel's tables (`inet_hash`, `inet_unhash`), `tw` those in
/// TIME_WAIT, each of this namespace alone. Requests (SYN_RECV) are in neither, but need a listener;
/// those whose listener has closed, which the kernel drops within a second, may be missed. The count
/// is a sum over CPUs, which is not atomic; therefore it is read twice, and must be 0 both times.
pub fn may_have_tcp() -> bool {
    let is_empty = || {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        // Without IPv6 there is no second file.
        read("sockstat").is_ok_and(|v4| has_no_tcp(&v4))
            && read("sockstat6").map_or_else(
                |error| error.kind() == io::ErrorKind::NotFound,
                |v6| {
                    v6.lines()
                        .any(|line| counts(line, "TCP6:", "inuse") == Some(0))
                },
            )
    };
    !(is_empty() && is_empty())
}

/// Whether `/proc/net/sockstat` reports no TCP sockets; a missing number does not count as 0.
fn has_no_tcp(sockstat: &str) -> bool {
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"));
    line.is_some_and(|line| {
        ["inuse", "tw"].map(|name| counts(line, "TCP:", name)) == [Some(0), Some(0)]
    })
}

/// The number after a name: `TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 0`.
fn counts(line: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut words = line.strip_prefix(protocol)?.split_ascii_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

/// The keepalive sysctls of the calling thread's namespace; `None` where /proc/sys does not show
/// them.
pub fn sysctls() -> Option<Sysctls> {
    Sysctls::read(|sysctl| {
        let text = files::read_kernel(&format!("/proc/sys/net/ipv4/{}", name(sysctl))).ok()?;
        text.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_namespace_is_skipped() {
        let empty =
            "sockets: used 5\nTCP: inuse 0 orphan 3 tw 0 alloc 9 mem 0\nUDP: inuse 1 mem 0\n";
        assert!(has_no_tcp(empty));
        for other in [
            empty.replace("inuse 0", "inuse 2"),
            empty.replace("tw 0", "tw 1"),
            empty.replace("tw 0", ""),
            empty.replace("inuse 0", "inuse x"),
            empty.replace("TCP:", "TCQ:"),
            String::new(),
        ] {
            assert!(!has_no_tcp(&other), "{other}");
        }
        let _listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        assert!(may_have_tcp());
    }
}
