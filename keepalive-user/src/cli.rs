//! # The command line
//!
//! What can be asked for, and nothing of how it is done. Values are checked here, so that the
//! rest of the program meets only sound ones.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use keepalive_ebpf::Filter;

use crate::{
    event::{Backend, ListSource},
    namespace::Namespace,
    numbers::state,
    output::SchemaOf,
};

/// See what TCP keepalive really does on this machine.
#[derive(Parser, Debug)]
#[command(name = "keepalive", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  keepalive trace                         every keepalive timer and zero-window probe, explained
  keepalive trace -R 5432 -d 10m          only connections to PostgreSQL, for ten minutes
  keepalive trace --json | jq .           one JSON object per line
  keepalive list                          every TCP socket, its timers and settings
  keepalive doctor                        what this kernel allows, and why

Exit codes: 0 success, 1 failure, 2 usage, 3 not permitted, 4 not supported by this kernel.";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Stream keepalive timers, probes, answers and deaths as they happen (needs root)
    Trace(Trace),
    /// Show every TCP socket with its timers, its keepalive settings and its owner
    List(List),
    /// Say whether `trace` will work on this machine, and if not, why and what to do
    Doctor(Doctor),
    /// Print the JSON Schema of what `trace` or `list` print with --json
    Schema {
        #[arg(value_enum, default_value_t = SchemaOf::Trace)]
        of: SchemaOf,
    },
}

const TRACE_EXAMPLES: &str = "\
Examples:
  keepalive trace                         all sockets of this machine, all network namespaces
  keepalive trace -p 4711                 the sockets of one process
  keepalive trace -L 22 -4                IPv4 connections to local port 22
  keepalive trace -a 10.0.0.0/8 --json -o events.jsonl
  keepalive trace -N /proc/4711/ns/net    the network namespace of a process

Ctrl-C prints the summary.";

#[derive(Args, Debug)]
#[command(after_help = TRACE_EXAMPLES)]
pub struct Trace {
    /// Stop after this many events
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time: 500ms, 30s, 10m, 2h
    #[arg(short, long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Print one JSON object per line (`keepalive schema` describes them)
    #[arg(long)]
    pub json: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Report answers when they arrive, not at the next timer: hooks tcp_ack, which is hot
    #[arg(long)]
    pub live_answers: bool,
    /// Measure the BPF programs, and print at the end what each took (to standard error)
    #[arg(long)]
    pub cost: bool,
    #[command(flatten)]
    pub loading: Loading,
    /// Show the diagnostics of the BPF programs
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub select: Selection,
}

const LIST_EXAMPLES: &str = "\
Examples:
  keepalive list                          all sockets of this network namespace
  keepalive list --keepalive off --state established
  keepalive list -R 5432 --sort silence   connections to PostgreSQL, longest silent first
  keepalive list -p 4711 --watch 2        one process, again every two seconds
  keepalive list --all-netns --json | jq 'select(.keepalive.enabled)'

Settings are idle/interval/count in seconds; * marks what is set on the socket, the rest is the
namespace's sysctl.";

#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub struct List {
    /// Only sockets in these states (comma-separated)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    pub state: Vec<State>,
    /// Only sockets with SO_KEEPALIVE on, or off
    #[arg(long, value_enum, value_name = "on|off")]
    pub keepalive: Option<Switch>,
    /// Sockets of all network namespaces (takes root)
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// Order of the rows; else as the kernel has them
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<SortKey>,
    /// List again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub watch: Option<u32>,
    /// Print one JSON object per line (`keepalive schema list` describes them)
    #[arg(long)]
    pub json: bool,
    /// Do not look for the processes that own the sockets
    #[arg(long, conflicts_with = "pid")]
    pub no_owner: bool,
    /// Where to get the sockets from
    #[arg(long, value_enum, default_value_t = SourceChoice::Auto)]
    pub source: SourceChoice,
    /// Raw BTF of the running kernel, if it does not show its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Show diagnostics
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub select: Selection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceChoice {
    /// The best that works
    Auto,
    /// BPF iterator: all settings and all timers of every socket (needs root)
    Iterator,
    /// Netlink sock_diag: one timer per socket, settings of sockets we may copy
    SockDiag,
}

impl SourceChoice {
    pub fn source(self) -> Option<ListSource> {
        match self {
            Self::Auto => None,
            Self::Iterator => Some(ListSource::Iterator),
            Self::SockDiag => Some(ListSource::SockDiag),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// States as `ss` spells them; the names of the JSON are understood too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    #[value(alias = "estab")]
    Established,
    #[value(alias = "syn_sent")]
    SynSent,
    #[value(alias = "syn_recv")]
    SynRecv,
    #[value(name = "fin-wait-1", alias = "fin_wait1")]
    FinWait1,
    #[value(name = "fin-wait-2", alias = "fin_wait2")]
    FinWait2,
    #[value(alias = "time_wait")]
    TimeWait,
    #[value(alias = "closed")]
    Close,
    #[value(alias = "close_wait")]
    CloseWait,
    #[value(alias = "last_ack")]
    LastAck,
    #[value(alias = "listening")]
    Listen,
    Closing,
}

impl State {
    /// The kernel's number.
    pub fn number(self) -> u8 {
        match self {
            Self::Established => state::ESTABLISHED,
            Self::SynSent => state::SYN_SENT,
            Self::SynRecv => state::SYN_RECV,
            Self::FinWait1 => state::FIN_WAIT1,
            Self::FinWait2 => state::FIN_WAIT2,
            Self::TimeWait => state::TIME_WAIT,
            Self::Close => state::CLOSE,
            Self::CloseWait => state::CLOSE_WAIT,
            Self::LastAck => state::LAST_ACK,
            Self::Listen => state::LISTEN,
            Self::Closing => state::CLOSING,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SortKey {
    State,
    /// Local address and port
    Local,
    /// Peer address and port
    Peer,
    /// Longest silent first
    Silence,
    /// Next timer first
    Timer,
    /// Next keepalive probe first
    Probe,
    /// Most unread bytes first
    RecvQ,
    /// Most unacknowledged bytes first
    SendQ,
    /// Process id
    Pid,
}

#[derive(Args, Debug)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub loading: Loading,
    /// Show the verifier's words where a program is refused
    #[arg(short, long)]
    pub verbose: bool,
}

/// Which sockets.
#[derive(Args, Debug)]
#[command(next_help_heading = "Which sockets")]
pub struct Selection {
    /// Only sockets of this process
    #[arg(short, long, value_name = "PID")]
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
    #[arg(short = 'N', long, value_name = "NETNS")]
    pub netns: Option<String>,
    /// Only sockets created in this cgroup: a path, absolute or below the cgroup2 mount
    #[arg(short, long, value_name = "CGROUP")]
    pub cgroup: Option<PathBuf>,
}

/// How to get into the kernel.
#[derive(Args, Debug)]
pub struct Loading {
    /// How to observe the kernel
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,
    /// Raw BTF of the running kernel, if it does not show its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    /// Size of the ring buffer: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, value_parser = ring_bytes)]
    pub ring_bytes: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BackendChoice {
    /// The best that works
    Auto,
    /// BPF trampolines: sees all, costs nothing between timers
    Fentry,
    /// Raw tracepoints: for kernels or policies that refuse trampolines
    Tracepoint,
}

impl BackendChoice {
    pub fn backend(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Fentry => Some(Backend::Fentry),
            Self::Tracepoint => Some(Backend::Tracepoint),
        }
    }
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

fn duration(text: &str) -> Result<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .context("a number with a unit, such as 500ms, 30s, 10m or 2h")?;
    let millis = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => bail!("unknown unit {unit:?}: use ms, s, m or h, as in 500ms, 30s, 10m or 2h"),
    };
    let millis = millis.filter(|&millis| millis > 0 && millis <= 1 << 48);
    Ok(Duration::from_millis(
        millis.context("too short or too long")?,
    ))
}

fn ring_bytes(text: &str) -> Result<u32> {
    let bytes: u32 = text.parse().context("a number of bytes")?;
    ensure!(
        bytes.is_power_of_two() && (4096..=1 << 30).contains(&bytes),
        "a power of two from 4096 to {}",
        1u32 << 30
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

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

    #[test]
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2h").unwrap(), Duration::from_hours(2));
        for bad in [
            "",
            "s",
            "0",
            "5x",
            "-1s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ring_sizes() {
        assert_eq!(ring_bytes("4096").unwrap(), 4096);
        for bad in ["0", "4095", "5000", "4294967296", "x"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
