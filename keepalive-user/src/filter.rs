//! # The filter in user space
//!
//! For sockets that are listed; what is traced is filtered by the programs.

use keepalive_ebpf::{Filter, Identity};

/// Whether a socket is wanted; as the programs' own `is_wanted`, and of the namespace nothing.
pub fn admits(filter: &Filter, id: &Identity) -> bool {
    let (local, peer) = (halves(id.local), halves(id.peer));
    let is_v4 = std::net::Ipv6Addr::from(id.peer).to_ipv4_mapped().is_some();
    let [high, low] = filter.prefix_mask;
    let in_prefix = |address: [u64; 2]| [address[0] & high, address[1] & low] == filter.prefix;
    (filter.local_port == 0 || filter.local_port == id.local_port)
        && (filter.peer_port == 0 || filter.peer_port == id.peer_port)
        && (filter.cgroup == 0 || filter.cgroup == id.cgroup)
        && (filter.ip_version == 0 || (filter.ip_version == 4) == is_v4)
        && (in_prefix(local) || in_prefix(peer))
}

/// An address as two words in memory order.
fn halves(address: [u8; 16]) -> [u64; 2] {
    zerocopy::transmute!(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_as_the_programs_do() {
        let v4 = |text: &str| {
            let address: std::net::Ipv4Addr = text.parse().unwrap();
            address.to_ipv6_mapped().octets()
        };
        let id = Identity {
            local: v4("10.0.0.1"),
            peer: v4("192.168.0.9"),
            local_port: 22,
            peer_port: 40_000,
            cgroup: 7,
            ..Identity::default()
        };
        let any = Filter::default();
        assert!(admits(&any, &id));
        for (filter, expected) in [
            (
                Filter {
                    local_port: 22,
                    ..any
                },
                true,
            ),
            (
                Filter {
                    local_port: 23,
                    ..any
                },
                false,
            ),
            (
                Filter {
                    peer_port: 40_000,
                    ..any
                },
                true,
            ),
            (
                Filter {
                    peer_port: 22,
                    ..any
                },
                false,
            ),
            (Filter { cgroup: 7, ..any }, true),
            (Filter { cgroup: 8, ..any }, false),
            (
                Filter {
                    ip_version: 4,
                    ..any
                },
                true,
            ),
            (
                Filter {
                    ip_version: 6,
                    ..any
                },
                false,
            ),
        ] {
            assert_eq!(admits(&filter, &id), expected, "{filter:?}");
        }
        for (prefix, expected) in [("192.168.0.0/16", true), ("10.0.0.1", true), ("::1", false)] {
            let prefix: crate::cli::Prefix = prefix.parse().unwrap();
            let (prefix, prefix_mask) = prefix.words();
            let filter = Filter {
                prefix,
                prefix_mask,
                ..any
            };
            assert_eq!(admits(&filter, &id), expected, "{filter:?}");
        }
    }
}
