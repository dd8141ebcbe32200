//! Middleboxes between the ends of a connection, which drop its state after an idle timeout.

use std::time::Duration;

use crate::core::format::millis;

/// A middlebox with an idle timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middlebox {
    pub name: String,
    pub timeout_ms: u64,
    /// The source of the timeout.
    pub source: Option<&'static str>,
}

/// The values of `--middlebox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Preset(Middlebox),
    /// This machine's own connection tracking, of each network namespace.
    Conntrack,
}

/// A preset.
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

impl Named {
    /// The names of all presets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.name).chain([CONNTRACK])
    }

    /// The middlebox with this name.
    pub fn of(name: &str) -> Option<Self> {
        if name == CONNTRACK {
            return Some(Self::Conntrack);
        }
        let preset = PRESETS.iter().find(|preset| preset.name == name)?;
        Some(Self::Preset(Middlebox {
            name: preset.name.to_owned(),
            timeout_ms: preset.seconds * 1000,
            source: Some(preset.source),
        }))
    }
}

impl Middlebox {
    /// A middlebox of which only the timeout is known.
    pub fn unnamed(timeout: Duration) -> Self {
        Self {
            name: "the middlebox".to_owned(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            source: None,
        }
    }

    /// Its timeout, and the source of that value.
    pub fn forgets(&self) -> String {
        let source = self
            .source
            .map_or_else(String::new, |source| format!(" ({source})"));
        format!(
            "{} drops idle connections after {}{source}",
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
        let Some(Named::Preset(nlb)) = Named::of("aws-nlb") else {
            panic!("a preset");
        };
        assert_eq!((nlb.name.as_str(), nlb.timeout_ms), ("aws-nlb", 350_000));
        assert!(
            nlb.forgets().contains("350 s (docs.aws"),
            "{}",
            nlb.forgets()
        );
        assert_eq!(Named::of("aws-nbl"), None);
        assert!(Named::names().all(|name| Named::of(name).is_some()));
        assert!(help().contains("azure-lb"), "{}", help());
    }
}
