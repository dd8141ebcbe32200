//! What is between the ends of a connection, and forgets it when it is silent for too long.

use std::{fs, str::FromStr};

use anyhow::{Context, Result, bail};

/// Something that forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middlebox {
    pub name: String,
    pub timeout_ms: u64,
}

/// A known one.
struct Preset {
    name: &'static str,
    seconds: u64,
    /// Where the number is from.
    source: &'static str,
}

const PRESETS: &[Preset] = &[
    Preset {
        name: "aws-nlb",
        seconds: 350,
        source: "Network Load Balancer, TCP idle timeout (default)",
    },
    Preset {
        name: "aws-nat",
        seconds: 350,
        source: "NAT gateway, idle timeout",
    },
    Preset {
        name: "azure-lb",
        seconds: 240,
        source: "Load Balancer, TCP idle timeout (default, 4 to 100 min)",
    },
    Preset {
        name: "gcp",
        seconds: 600,
        source: "VPC firewall, idle connection tracking",
    },
    Preset {
        name: "ipvs",
        seconds: 900,
        source: "Linux IPVS, tcp timeout (ipvsadm --set; also Docker overlay networks)",
    },
];
/// The connection tracking of this machine and network namespace.
const CONNTRACK: &str = "conntrack";
const CONNTRACK_TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

impl FromStr for Middlebox {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        if name == CONNTRACK {
            let text = fs::read_to_string(CONNTRACK_TIMEOUT)
                .context("no connection tracking in this network namespace")?;
            let seconds: u64 = text.trim().parse().context(CONNTRACK_TIMEOUT)?;
            return Ok(Self::new(CONNTRACK, seconds));
        }
        match PRESETS.iter().find(|preset| preset.name == name) {
            Some(preset) => Ok(Self::new(preset.name, preset.seconds)),
            None => {
                let known: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                bail!(
                    "known are {}, {CONNTRACK}; for others give --idle-timeout",
                    known.join(", ")
                )
            }
        }
    }
}

impl Middlebox {
    fn new(name: &str, seconds: u64) -> Self {
        Self {
            name: name.to_owned(),
            timeout_ms: seconds * 1000,
        }
    }
}

/// The presets with their sources, for `--help`.
pub fn help() -> String {
    let mut text = String::from("Middleboxes:\n");
    for preset in PRESETS {
        text += &format!(
            "  {:10} {:4} s  {}\n",
            preset.name, preset.seconds, preset.source
        );
    }
    text + "  conntrack  this namespace's own nf_conntrack_tcp_timeout_established"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_names() {
        let nlb: Middlebox = "aws-nlb".parse().unwrap();
        assert_eq!(nlb, Middlebox::new("aws-nlb", 350));
        let error = "aws-nbl".parse::<Middlebox>().unwrap_err().to_string();
        assert!(error.contains("aws-nlb, aws-nat"), "{error}");
        assert!(help().contains("azure-lb"), "{}", help());
    }
}
