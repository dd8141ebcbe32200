//! What `explain` can be asked.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{Sandbox, duration};
use crate::event::{Cookie, Endpoint, ListedSocket, Socket};

const EXAMPLES: &str = "\
Examples:
  keepalive explain :5432                 the connection to, or from, port 5432
  keepalive explain 4711                  the socket of process 4711
  keepalive explain 10.0.0.1:22-10.0.0.9:51514
  keepalive explain :5432 --follow        and go on as it happens, until it ends
  keepalive explain :8080 --watch 30s     and see how long its owner lets connections idle
  keepalive explain --idle 60 --interval 10 --count 3 --user-timeout 20000

The last is the calculator: what such settings mean, without a socket. What is not given is this
network namespace's default.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// PID, :PORT, ADDR:PORT, LOCAL-PEER, or sk:COOKIE as `ss -e` prints it
    #[arg(value_name = "SOCKET", conflicts_with_all = ["idle", "interval", "count", "user_timeout", "retries2"])]
    pub target: Option<Target>,
    /// Go on explaining until the socket ends, or Ctrl-C (as `trace`, needs root)
    #[arg(long, requires = "target", conflicts_with = "json")]
    pub follow: bool,
    /// First watch how long connections to the same port idle before this side closes them (needs
    /// root)
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "target", conflicts_with = "follow")]
    pub watch: Option<Duration>,
    /// Look in all network namespaces (takes root)
    #[arg(long)]
    pub all_netns: bool,
    /// Print one JSON object (`keepalive schema explain` describes it)
    #[arg(long)]
    pub json: bool,
    /// Raw BTF of the running kernel, if it does not show its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    #[command(flatten)]
    pub sandbox: Sandbox,
    /// Show diagnostics
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// Settings to calculate with.
#[derive(Args, Debug)]
#[command(next_help_heading = "Calculator")]
pub struct Settings {
    /// TCP_KEEPIDLE, seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=32767))]
    pub idle: Option<u32>,
    /// TCP_KEEPINTVL, seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=32767))]
    pub interval: Option<u32>,
    /// TCP_KEEPCNT
    #[arg(long, value_name = "PROBES", value_parser = clap::value_parser!(u32).range(1..=127))]
    pub count: Option<u32>,
    /// TCP_USER_TIMEOUT, milliseconds; 0 = none
    #[arg(long, value_name = "MS")]
    pub user_timeout: Option<u32>,
    /// net.ipv4.tcp_retries2
    #[arg(long, value_name = "RETRIES", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub retries2: Option<u32>,
}

impl Settings {
    /// Whether anything is to be calculated.
    pub fn is_given(&self) -> bool {
        [
            self.idle,
            self.interval,
            self.count,
            self.user_timeout,
            self.retries2,
        ]
        .iter()
        .any(Option::is_some)
    }
}

/// Which socket is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Pid(u32),
    /// At either end.
    Port(u16),
    /// At either end.
    Endpoint(SocketAddr),
    /// Local and peer end.
    Pair(SocketAddr, SocketAddr),
    /// As in JSON.
    Cookie(Cookie),
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(cookie) = text.strip_prefix("sk:") {
            let cookie = u64::from_str_radix(cookie, 16)
                .with_context(|| format!("{cookie:?} is no hexadecimal cookie"))?;
            return Ok(Self::Cookie(Cookie(cookie)));
        }
        if let Some(port) = text.strip_prefix(':') {
            let port = port
                .parse()
                .with_context(|| format!("{port:?} is no port"))?;
            return Ok(Self::Port(port));
        }
        if let Ok(pid) = text.parse() {
            return Ok(Self::Pid(pid));
        }
        let address = |text: &str| {
            text.parse::<SocketAddr>().with_context(|| {
                format!("{text:?} is no ADDR:PORT (of IPv6: [ADDR]:PORT); names are not looked up")
            })
        };
        match text.split_once('-') {
            Some((local, peer)) => Ok(Self::Pair(address(local)?, address(peer)?)),
            None if text.contains(':') => Ok(Self::Endpoint(address(text)?)),
            None => bail!("give a PID, :PORT, ADDR:PORT, LOCAL-PEER or sk:COOKIE"),
        }
    }
}

impl Target {
    /// Whether this socket is meant.
    pub fn is(&self, row: &ListedSocket) -> bool {
        match self {
            Self::Pid(pid) => row.pids.contains(pid),
            _ => self.names(&row.socket),
        }
    }

    /// Whether this socket is meant, by its ends or its cookie.
    pub fn names(&self, socket: &Socket) -> bool {
        let Socket {
            local,
            peer,
            cookie,
            ..
        } = socket;
        let is = |end: &Endpoint, address: &SocketAddr| {
            (end.address, end.port) == (address.ip().to_canonical(), address.port())
        };
        match self {
            Self::Pid(_) => false,
            Self::Port(port) => local.port == *port || peer.port == *port,
            Self::Endpoint(address) => is(local, address) || is(peer, address),
            Self::Pair(ours, theirs) => is(local, ours) && is(peer, theirs),
            Self::Cookie(wanted) => *cookie == Some(*wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let of = |text: &str| text.parse::<Target>();
        assert_eq!(of("4711").unwrap(), Target::Pid(4711));
        assert_eq!(of(":22").unwrap(), Target::Port(22));
        assert_eq!(of("sk:00ff").unwrap(), Target::Cookie(Cookie(0xff)));
        let v6 = "[::1]:22".parse().unwrap();
        assert_eq!(of("[::1]:22").unwrap(), Target::Endpoint(v6));
        assert_eq!(of("[::1]:22-[::1]:22").unwrap(), Target::Pair(v6, v6));
        for bad in [
            "",
            ":",
            ":99999",
            "sk:xyz",
            "host:22",
            "1.2.3.4",
            "1.2.3.4:1-x",
            "-1",
            "x",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
