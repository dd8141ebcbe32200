//! What is between the ends of a connection, and forgets it when it is silent for too long.

use std::str::FromStr;

use anyhow::{Result, bail};

use super::nearest::suggestion;
use crate::{files, output::words::millis};

/// Something that forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middlebox {
    pub name: String,
    pub timeout_ms: u64,
    /// Where the number is from.
    pub source: Option<&'static str>,
}

/// What `--middlebox` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Preset(Middlebox),
    /// This machine's own connection tracking, of each network namespace.
    Conntrack,
}

/// A known one.
struct Preset {
    name: &'static str,
    seconds: u64,
    what: &'static str,
    source: &'static str,
}

const PRESETS: &[Preset] = &[
    Preset {
        name: "aws-nlb",
        seconds: 350,
        what: "Network Load Balancer, TCP idle timeout (default; 60 to 6000 s)",
        source: "docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html",
    },
    Preset {
        name: "aws-nat",
        seconds: 350,
        what: "NAT gateway, idle timeout",
        source: "docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html",
    },
    Preset {
        name: "azure-lb",
        seconds: 240,
        what: "Load Balancer, idle timeout (default; 4 to 30 min, outbound to 100)",
        source: "learn.microsoft.com/azure/load-balancer/load-balancer-tcp-idle-timeout",
    },
    Preset {
        name: "gcp",
        seconds: 600,
        what: "VPC firewall, idle connection tracking",
        source: "cloud.google.com/compute/docs/troubleshooting/general-tips",
    },
    Preset {
        name: "ipvs",
        seconds: 900,
        what: "Linux IPVS (also Docker overlay networks), default of ipvsadm --set",
        source: "tcp_timeouts in net/netfilter/ipvs/ip_vs_proto_tcp.c",
    },
];
const CONNTRACK: &str = "conntrack";
const CONNTRACK_TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        if name == CONNTRACK {
            return Ok(Self::Conntrack);
        }
        if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
            return Ok(Self::Preset(Middlebox {
                name: preset.name.to_owned(),
                timeout_ms: preset.seconds * 1000,
                source: Some(preset.source),
            }));
        }
        let known = PRESETS.iter().map(|preset| preset.name);
        let known: Vec<&str> = known.chain([CONNTRACK]).collect();
        bail!(
            "known are {}; for others give --idle-timeout{}",
            known.join(", "),
            suggestion(name, known.iter().copied())
        )
    }
}

impl Middlebox {
    /// The connection tracking of the calling thread's network namespace; `None` if there is none.
    pub fn conntrack() -> Option<Self> {
        let text = files::read_kernel(CONNTRACK_TIMEOUT).ok()?;
        let seconds: u64 = text.trim().parse().ok()?;
        Some(Self {
            name: "connection tracking here".to_owned(),
            timeout_ms: seconds * 1000,
            source: Some("nf_conntrack_tcp_timeout_established"),
        })
    }

    /// What it does when, and who says so.
    pub fn forgets(&self) -> String {
        let source = self
            .source
            .map_or_else(String::new, |source| format!(" ({source})"));
        format!(
            "{} forgets after {}{source}",
            self.name,
            millis(self.timeout_ms)
        )
    }
}

/// The presets with their sources, for `--help`.
pub fn help() -> String {
    let mut text = String::from("Middleboxes:\n");
    for preset in PRESETS {
        text += &format!(
            "  {:9} {:4} s  {}\n                    {}\n",
            preset.name, preset.seconds, preset.what, preset.source
        );
    }
    text + "  conntrack         each network namespace's own nf_conntrack_tcp_timeout_established"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_names() {
        let Named::Preset(nlb) = "aws-nlb".parse().unwrap() else {
            panic!("a preset");
        };
        assert_eq!((nlb.name.as_str(), nlb.timeout_ms), ("aws-nlb", 350_000));
        assert!(
            nlb.forgets().contains("350 s (docs.aws"),
            "{}",
            nlb.forgets()
        );
        let error = "aws-nbl".parse::<Named>().unwrap_err().to_string();
        assert!(error.contains("aws-nlb, aws-nat"), "{error}");
        assert!(error.contains("mean \"aws-nlb\"?"), "{error}");
        assert_eq!("conntrack".parse::<Named>().unwrap(), Named::Conntrack);
        assert!(help().contains("azure-lb"), "{}", help());
    }
}
