//! Arguments of `explain`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{Sandbox, selection::netns, values::duration};
use crate::core::{
    kernel::{KEEPALIVE_MAX_S, PROBES_MAX},
    target::Target,
};

const EXAMPLES: &str = "\
Examples:
  keepalive explain :5432                 the connection to, or from, port 5432
  keepalive explain 4711                  the connection of process 4711
  keepalive explain 10.0.0.9:51514        the connection with this end, local or peer
  keepalive explain 10.0.0.1:22-10.0.0.9:51514
  keepalive explain :5432 --follow        and go on as it happens, until it ends
  keepalive explain :8080 --watch 30s     and see how long either side lets connections idle
  keepalive explain --idle 60 --interval 10 --count 3 --user-timeout 20000

A listener is taken only if no connection matches. The last is the calculator: what such settings mean, without a socket. What is not given is this
network namespace's default.";

/// The options of the calculator, which looks at no socket.
const CALCULATOR: [&str; 5] = ["idle", "interval", "count", "user_timeout", "retries2"];

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// PID, :PORT, ADDR:PORT, LOCAL-PEER, or sk:COOKIE as `ss -e` prints it
    #[arg(value_name = "SOCKET", conflicts_with_all = CALCULATOR)]
    pub target: Option<Target>,
    /// Go on explaining until the socket ends, or Ctrl-C (as `trace`, needs root)
    #[arg(long, requires = "target", conflicts_with = "json", conflicts_with_all = CALCULATOR)]
    pub follow: bool,
    /// First watch how long connections to the same port idle before either side closes them (needs
    /// root)
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "target", conflicts_with = "follow", conflicts_with_all = CALCULATOR)]
    pub watch: Option<Duration>,
    /// Search all network namespaces (needs root)
    #[arg(long, conflicts_with_all = CALCULATOR)]
    pub all_netns: bool,
    /// Search this network namespace: a path, a name of `ip netns`, or an inode number (needs root)
    #[arg(short = 'N', long, value_name = "NETNS", value_parser = netns, conflicts_with = "all_netns", conflicts_with_all = CALCULATOR)]
    pub netns: Option<String>,
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
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=KEEPALIVE_MAX_S.into()))]
    pub idle: Option<u32>,
    /// TCP_KEEPINTVL, seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=KEEPALIVE_MAX_S.into()))]
    pub interval: Option<u32>,
    /// TCP_KEEPCNT
    #[arg(long, value_name = "PROBES", value_parser = clap::value_parser!(u32).range(1..=PROBES_MAX.into()))]
    pub count: Option<u32>,
    /// TCP_USER_TIMEOUT, milliseconds; 0 = none
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=i64::from(i32::MAX)))]
    pub user_timeout: Option<u32>,
    /// net.ipv4.tcp_retries2
    #[arg(long, value_name = "RETRIES", value_parser = clap::value_parser!(u32).range(1..=255))]
    pub retries2: Option<u32>,
}

impl Settings {
    /// Whether settings are given.
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
