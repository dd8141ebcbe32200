//! Which sockets a command is about.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use keepalive_ebpf::Filter;

use crate::namespace::Namespace;

/// Which sockets.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which sockets")]
pub struct Selection {
    /// Only sockets of this process
    #[arg(short, long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Only sockets with this local port
    #[arg(short = 'L', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub local_port: Option<u16>,
    /// Only sockets with this peer port
    #[arg(short = 'R', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub remote_port: Option<u16>,
    /// Only sockets whose local or peer address is in ADDR[/LEN]
    #[arg(short, long, value_name = "ADDR[/LEN]")]
    pub address: Option<Prefix>,
    /// Only IPv4 (IPv4-mapped IPv6 included)
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Only IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Only this network namespace: a path, a name of `ip netns`, or an inode number
    #[arg(short = 'N', long, value_name = "NETNS", value_parser = netns)]
    pub netns: Option<String>,
    /// Only sockets created in this very cgroup, not in those below it: a path, absolute or below
    /// the cgroup2 mount
    #[arg(short, long, value_name = "CGROUP")]
    pub cgroup: Option<PathBuf>,
}

impl Selection {
    /// The part of the filter that the kernel decides.
    pub fn filter(&self) -> Result<Filter> {
        let (prefix, prefix_mask) = self.address.map_or(([0; 2], [0; 2]), Prefix::words);
        Ok(Filter {
            prefix,
            prefix_mask,
            cgroup: self.cgroup.as_deref().map_or(Ok(0), cgroup_id)?,
            netns: self.netns.as_deref().map_or(Ok(0), netns_inode)?,
            local_port: self.local_port.unwrap_or(0),
            peer_port: self.remote_port.unwrap_or(0),
            ip_version: match (self.ipv4, self.ipv6) {
                (true, _) => 4,
                (_, true) => 6,
                _ => 0,
            },
            reserved: 0,
        })
    }

    /// The filters in force, for the `start` event.
    pub fn described(&self) -> std::collections::BTreeMap<String, String> {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Some("ipv4".to_owned()),
            (_, true) => Some("ipv6".to_owned()),
            _ => None,
        };
        [
            ("pid", self.pid.map(|pid| pid.to_string())),
            ("local_port", self.local_port.map(|port| port.to_string())),
            ("remote_port", self.remote_port.map(|port| port.to_string())),
            (
                "address",
                self.address
                    .map(|prefix| format!("{}/{}", prefix.address, prefix.length)),
            ),
            ("family", family),
            ("netns", self.netns.clone()),
            (
                "cgroup",
                self.cgroup.as_ref().map(|path| path.display().to_string()),
            ),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
    }
}

/// An address and how many of its leading bits count.
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
            format!("{address:?} is no IPv4 or IPv6 address; names are not looked up")
        })?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length
            .map_or(Ok(most), str::parse)
            .context("the prefix length is no number")?;
        ensure!(
            length <= most,
            "a prefix length of at most {most}, not {length}"
        );
        Ok(Self { address, length })
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
            halves(Ipv6Addr::from_bits(prefix)),
            halves(Ipv6Addr::from_bits(mask)),
        )
    }
}

fn halves(address: Ipv6Addr) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = address.octets();
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes(rest),
    ]
}

/// No namespace has the number 0, and the filter takes it for any.
fn netns(text: &str) -> Result<String> {
    ensure!(text.parse() != Ok(0), "no network namespace has number 0");
    Ok(text.to_owned())
}

/// A number is taken as it is: the namespace need not exist yet, or be visible from here.
fn netns_inode(text: &str) -> Result<u32> {
    text.parse().or_else(|_| Ok(Namespace::named(text)?.inode))
}

fn cgroup_id(path: &std::path::Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let root = crate::attribution::cgroup2_root()
        .context("no cgroup2 is mounted here, sockets cannot be told by cgroup")?;
    let below = root.join(path.strip_prefix("/").unwrap_or(path));
    let metadata = std::fs::metadata(path)
        .ok()
        .filter(|_| path.starts_with(&root))
        .map_or_else(|| std::fs::metadata(&below), Ok)
        .with_context(|| format!("no cgroup {}", below.display()))?;
    Ok(metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let (prefix, mask) = "10.1.2.3/8".parse::<Prefix>().unwrap().words();
        let inside = halves("::ffff:10.200.0.1".parse().unwrap());
        let outside = halves("::ffff:11.0.0.1".parse().unwrap());
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
