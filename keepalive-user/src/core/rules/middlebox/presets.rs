//! The middleboxes that `--middlebox` knows by name.

use super::{Expiry, Middlebox};

/// The values of `--middlebox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Preset(Middlebox),
    /// The connection tracking of this network namespace, else of those that track.
    Conntrack(Option<String>),
}

/// A preset.
struct Preset {
    name: &'static str,
    seconds: u64,
    expiry: Expiry,
    what: &'static str,
    source: &'static str,
}

/// When the figures were compared with their sources, except where a source says otherwise.
const CHECKED: &str = "2026-11";

const PRESETS: &[Preset] = &[
    Preset {
        name: "aws-nlb",
        seconds: 350,
        expiry: Expiry::ResetsNext,
        what: "Network Load Balancer, TCP idle timeout (default; 60 to 6000 s)",
        source: "docs.aws.amazon.com/elasticloadbalancing/latest/network/update-idle-timeout.html",
    },
    Preset {
        name: "aws-nat",
        seconds: 350,
        expiry: Expiry::ResetsNext,
        what: "NAT gateway, idle timeout",
        source: "docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html; not confirmed",
    },
    Preset {
        name: "aws-alb",
        seconds: 60,
        expiry: Expiry::Proxy {
            setting: Some("idle_timeout.timeout_seconds of the load balancer"),
        },
        what: "Application Load Balancer, connection idle timeout (default)",
        source: "docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html",
    },
    Preset {
        name: "aws-clb",
        seconds: 60,
        expiry: Expiry::Proxy {
            setting: Some("ConnectionSettings.IdleTimeout of the load balancer (at most 3600)"),
        },
        what: "Classic Load Balancer (ELB), idle timeout (default; 1 to 3600 s)",
        source: "docs.aws.amazon.com/elasticloadbalancing/latest/classic/config-idle-timeout.html",
    },
    Preset {
        name: "azure-lb",
        seconds: 240,
        // With "TCP reset" enabled on the rule it resets both ends at the timeout.
        expiry: Expiry::Silent,
        what: "Load Balancer, idle timeout (default; 4 to 100 min); without TCP reset",
        source: "learn.microsoft.com/azure/load-balancer/load-balancer-tcp-idle-timeout",
    },
    Preset {
        name: "gcp",
        seconds: 600,
        // Until the next segment of this end.
        expiry: Expiry::Silent,
        what: "VPC firewall, connection tracking; inbound only, until a segment is sent",
        source: "cloud.google.com/compute/docs/troubleshooting/general-tips",
    },
    Preset {
        name: "gcp-alb",
        seconds: 600,
        expiry: Expiry::Proxy { setting: None },
        what: "Application Load Balancer, HTTP keepalive to backends (fixed; clients: 610 s)",
        source: "cloud.google.com/load-balancing/docs/https/request-distribution",
    },
    Preset {
        name: "envoy",
        seconds: 3600,
        expiry: Expiry::Proxy {
            setting: Some("idle_timeout"),
        },
        what: "Envoy (also Istio), idle_timeout of TCP and HTTP connections (default)",
        source: "envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts",
    },
    Preset {
        name: "nginx",
        seconds: 600,
        expiry: Expiry::Proxy {
            setting: Some("proxy_timeout"),
        },
        what: "nginx as a TCP proxy, proxy_timeout (default; HTTP: keepalive_timeout 75 s)",
        source: "nginx.org/en/docs/stream/ngx_stream_proxy_module.html",
    },
    Preset {
        name: "ipvs",
        seconds: 900,
        expiry: Expiry::Unspecified,
        what: "Linux IPVS (also Docker overlay networks), default of ipvsadm --set",
        source: "tcp_timeouts in net/netfilter/ipvs/ip_vs_proto_tcp.c",
    },
];
const CONNTRACK: &str = "conntrack";

impl Named {
    /// The names of all presets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let presets = PRESETS.iter().map(|preset| preset.name);
        presets.chain([CONNTRACK, "conntrack:NETNS"])
    }

    /// The middlebox with this name.
    pub fn of(name: &str) -> Option<Self> {
        if name == CONNTRACK {
            return Some(Self::Conntrack(None));
        }
        let netns = name
            .strip_prefix(CONNTRACK)
            .and_then(|rest| rest.strip_prefix(':'));
        if let Some(netns) = netns {
            return (!netns.is_empty()).then(|| Self::Conntrack(Some(netns.to_owned())));
        }
        let preset = PRESETS.iter().find(|preset| preset.name == name)?;
        Some(Self::Preset(Middlebox {
            name: preset.name.to_owned(),
            timeout_ms: preset.seconds * 1000,
            expiry: preset.expiry,
            source: Some(preset.source),
        }))
    }
}

/// The presets with their sources, for `--help`.
pub fn help() -> String {
    let mut text = format!("Middleboxes (the vendors' figures, checked {CHECKED} unless noted):\n");
    for preset in PRESETS {
        text += &format!(
            "  {:9} {:4} s  {}\n                    {}; {}\n",
            preset.name,
            preset.seconds,
            preset.what,
            then(preset.expiry),
            preset.source
        );
    }
    text + "  conntrack         nf_conntrack_tcp_timeout_established of the network namespaces that\n"
        + "                    track connections: the socket's own, and those that forward\n"
        + "                    (conntrack:NETNS uses that of this one)"
}

fn then(expiry: Expiry) -> &'static str {
    match expiry {
        Expiry::Silent => "then drops segments silently",
        Expiry::ResetsNext => "then answers the next segment by RST",
        Expiry::Unspecified => "then: not documented",
        Expiry::Proxy { .. } => "closes; keepalive probes do not count",
    }
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

    #[test]
    fn conntrack_may_name_a_namespace() {
        let of = |netns: Option<&str>| Some(Named::Conntrack(netns.map(str::to_owned)));
        assert_eq!(Named::of("conntrack"), of(None));
        assert_eq!(Named::of("conntrack:node"), of(Some("node")));
        assert_eq!(Named::of("conntrack:"), None);
        assert_eq!(Named::of("conntracked"), None);
    }
}
