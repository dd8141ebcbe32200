//! Connection tracking on this machine: which network namespaces can drop which connections.

use std::collections::BTreeMap;

use super::{Expiry, Middlebox};

/// The connection tracking of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracking {
    /// Inode number.
    pub netns: u32,
    /// `nf_conntrack_tcp_timeout_established`, milliseconds.
    pub timeout_ms: u64,
    /// `nf_conntrack_count`: connections of any protocol that it tracks now. Where it is 0 nothing is
    /// tracked (conntrack registers its hooks in a namespace only if a rule there needs them), so the
    /// timeout has no effect.
    pub connections: u64,
    /// Whether the namespace forwards (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`), so that
    /// connections of other namespaces may pass it.
    pub forwards: bool,
}

impl Tracking {
    /// As a middlebox that the user named.
    pub fn named(&self) -> Middlebox {
        self.middlebox(format!(
            "connection tracking in network namespace {}",
            self.netns
        ))
    }

    fn middlebox(&self, name: String) -> Middlebox {
        Middlebox {
            name,
            timeout_ms: self.timeout_ms,
            // It depends on NAT, on the rules and on nf_conntrack_tcp_loose.
            expiry: Expiry::Unspecified,
            source: Some("nf_conntrack_tcp_timeout_established"),
        }
    }

    /// For sockets of each of these namespaces, the shortest timeout among the namespaces that track and
    /// that their connections may pass: their own, and those that forward.
    pub fn between(namespaces: &[u32], all: &[Self]) -> BTreeMap<u32, Middlebox> {
        let of = |netns: u32| {
            let passed = all
                .iter()
                .filter(|it| it.connections > 0 && (it.netns == netns || it.forwards));
            // Of equal timeouts the own one.
            let shortest = passed.min_by_key(|it| (it.timeout_ms, it.netns != netns))?;
            let place = shortest.netns;
            let name = if place == netns {
                format!("connection tracking in its network namespace {place}")
            } else {
                format!(
                    "connection tracking in network namespace {place}, which forwards (if the connection \
                     passes it)"
                )
            };
            Some((netns, shortest.middlebox(name)))
        };
        namespaces.iter().filter_map(|&netns| of(netns)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracking(netns: u32, seconds: u64, connections: u64, forwards: bool) -> Tracking {
        Tracking {
            netns,
            timeout_ms: seconds * 1000,
            connections,
            forwards,
        }
    }

    /// A pod (1) that tracks nothing, the node (2), and another pod (3) that tracks for itself.
    #[test]
    fn only_namespaces_that_track_and_are_passed() {
        let all = [
            tracking(1, 432_000, 0, false),
            tracking(2, 60, 5, true),
            tracking(3, 30, 7, false),
        ];
        let found = Tracking::between(&[1, 2, 3], &all);
        let seconds = |netns: u32| found[&netns].timeout_ms / 1000;
        assert_eq!([1, 2, 3].map(seconds), [60, 60, 30]);
        assert!(found[&1].name.contains("namespace 2, which forwards"));
        assert!(found[&2].name.contains("its network namespace 2"));
        let idle = [tracking(1, 10, 0, true)];
        assert!(Tracking::between(&[1], &idle).is_empty());
    }
}
