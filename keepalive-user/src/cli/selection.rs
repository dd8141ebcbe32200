//! Which sockets a command applies to.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use keepalive_ebpf::Filter;

use crate::{
    core::{
        event::Incomplete,
        exit::{Exit, Refusal},
        filter::Prefix,
    },
    machine::{namespace::Namespace, owners::cgroup_id},
};

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
    ///
    /// # Errors
    /// A usage error, if a namespace or a cgroup does not exist.
    pub fn filter(&self) -> Result<Filter> {
        self.resolve().map_err(|error| usage(&error))
    }

    fn resolve(&self) -> Result<Filter> {
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
            all_ends: 0,
        })
    }

    /// The network namespaces to search, and those that cannot be seen: all, the named one, or this
    /// process's.
    ///
    /// # Errors
    /// A usage error, if the one that is named does not exist.
    pub fn namespaces(&self, all: bool) -> Result<(Vec<Namespace>, Vec<Incomplete>)> {
        if all {
            let (all, unseen) = Namespace::all()?;
            return Ok((all.into_values().collect(), unseen));
        }
        let one = match &self.netns {
            None => Namespace::current()?,
            Some(name) => Namespace::named(name).map_err(|error| usage(&error))?,
        };
        Ok((vec![one], Vec::new()))
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
            ("address", self.address.map(|prefix| prefix.to_string())),
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

/// An argument that names something that does not exist.
fn usage(error: &anyhow::Error) -> anyhow::Error {
    Refusal::new(Exit::Usage, format!("{error:#}")).into()
}

/// No namespace has inode number 0; in the filter it means any.
pub fn netns(text: &str) -> Result<String> {
    ensure!(text.parse() != Ok(0), "0 is not a network namespace");
    Ok(text.to_owned())
}

/// A number is not checked: the namespace need not exist yet, or be visible from here.
fn netns_inode(text: &str) -> Result<u32> {
    text.parse().or_else(|_| Ok(Namespace::named(text)?.inode))
}
