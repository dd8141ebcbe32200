//! # The filter in user space
//!
//! The same filter as in the BPF programs, for sockets that are listed and for records that are replayed.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use anyhow::{Context, Result, ensure};
use keepalive_ebpf::{Filter, Identity};

/// Whether the filter admits a socket: the same test as `is_wanted` in the programs.
pub fn admits(filter: &Filter, id: &Identity) -> bool {
    let (local, peer) = (halves(id.local), halves(id.peer));
    let is_v4 = Ipv6Addr::from(id.peer).to_ipv4_mapped().is_some();
    let [high, low] = filter.prefix_mask;
    let in_prefix = |address: [u64; 2]| [address[0] & high, address[1] & low] == filter.prefix;
    (filter.local_port == 0 || filter.local_port == id.local_port)
        && (filter.peer_port == 0 || filter.peer_port == id.peer_port)
        && (filter.cgroup == 0 || filter.cgroup == id.cgroup)
        && (filter.netns == 0 || filter.netns == id.netns)
        && (filter.ip_version == 0 || (filter.ip_version == 4) == is_v4)
        && (in_prefix(local) || in_prefix(peer))
}

/// Whether both identities are of the same socket, and not of a later one with the same endpoints. It
/// compares the address of the `struct sock`, which not every source reports, else the cookie, which
/// not every socket has.
pub fn is_same(one: &Identity, other: &Identity) -> bool {
    let ends = |id: &Identity| (id.netns, id.local, id.local_port, id.peer, id.peer_port);
    let agree = |one: u64, other: u64| one == 0 || other == 0 || one == other;
    ends(one) == ends(other) && agree(one.sk, other.sk) && agree(one.cookie, other.cookie)
}

/// An address and the number of leading bits that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u32,
}

impl std::str::FromStr for Prefix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().with_context(|| {
            format!("{address:?} is not an IPv4 or IPv6 address; names are not resolved")
        })?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length
            .map_or(Ok(most), str::parse)
            .context("the prefix length is not a number")?;
        ensure!(
            length <= most,
            "a prefix length of at most {most}, not {length}"
        );
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix {
    /// Prefix and mask as the programs compare them: IPv4 as IPv4-mapped IPv6, in memory order.
    pub fn words(self) -> ([u64; 2], [u64; 2]) {
        let (address, length) = match self.address {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), self.length + 96),
            IpAddr::V6(address) => (address, self.length),
        };
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let prefix = address.to_bits() & mask;
        (
            halves(Ipv6Addr::from_bits(prefix).octets()),
            halves(Ipv6Addr::from_bits(mask).octets()),
        )
    }
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
            netns: 9,
            ..Identity::default()
        };
        let any = Filter::default();
        let admitted = |change: fn(&mut Filter)| {
            let mut filter = any;
            change(&mut filter);
            admits(&filter, &id)
        };
        assert!(admitted(|_| {}));
        assert!(admitted(|filter| filter.local_port = 22));
        assert!(!admitted(|filter| filter.local_port = 23));
        assert!(admitted(|filter| filter.peer_port = 40_000));
        assert!(!admitted(|filter| filter.peer_port = 22));
        assert!(admitted(|filter| filter.cgroup = 7));
        assert!(!admitted(|filter| filter.cgroup = 8));
        assert!(admitted(|filter| filter.netns = 9));
        assert!(!admitted(|filter| filter.netns = 8));
        assert!(admitted(|filter| filter.ip_version = 4));
        assert!(!admitted(|filter| filter.ip_version = 6));
        for (prefix, expected) in [("192.168.0.0/16", true), ("10.0.0.1", true), ("::1", false)] {
            let prefix: Prefix = prefix.parse().unwrap();
            let (prefix, prefix_mask) = prefix.words();
            let filter = Filter {
                prefix,
                prefix_mask,
                ..any
            };
            assert_eq!(admits(&filter, &id), expected, "{filter:?}");
        }
    }

    #[test]
    fn prefixes() {
        let (prefix, mask) = "10.1.2.3/8".parse::<Prefix>().unwrap().words();
        let words = |text: &str| halves(text.parse::<Ipv6Addr>().unwrap().octets());
        let (inside, outside) = (words("::ffff:10.200.0.1"), words("::ffff:11.0.0.1"));
        assert_eq!([inside[0] & mask[0], inside[1] & mask[1]], prefix);
        assert_ne!([outside[0] & mask[0], outside[1] & mask[1]], prefix);
        assert_eq!("::/0".parse::<Prefix>().unwrap().words(), ([0; 2], [0; 2]));
        for bad in [
            "10.0.0.0/33",
            "::/129",
            "localhost",
            "10.0.0.0/x",
            "10.0.0.0/",
            "",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
