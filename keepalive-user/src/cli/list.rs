//! Arguments of `list`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{Sandbox, Selection, values::list_interval};
use crate::core::{event::ListSource, kernel::state, order::Order};

const LIST_EXAMPLES: &str = "\
Examples:
  keepalive list                          all sockets of this network namespace
  keepalive list --keepalive off --state established
  keepalive list -R 5432 --sort silence   connections to PostgreSQL, longest silent first
  keepalive list -p 4711 --watch 2        one process, again every two seconds
  keepalive list --all-netns --json | jq 'select(.keepalive.enabled)'

Settings are idle/interval/count in seconds, ut is TCP_USER_TIMEOUT; * marks what is set on the
socket (175*/75/6*: TCP_KEEPIDLE and TCP_KEEPCNT), the rest is the namespace's sysctl. ? is unknown,
- is none.";

#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub struct List {
    /// Show only sockets in these states (comma-separated)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    pub state: Vec<State>,
    /// Show only sockets with SO_KEEPALIVE on, or off
    #[arg(long, value_enum, value_name = "on|off")]
    pub keepalive: Option<Switch>,
    /// Show the sockets of all network namespaces (needs root)
    #[arg(long, conflicts_with = "netns")]
    pub all_netns: bool,
    /// Sort the rows; default is the kernel's order
    #[arg(long, value_enum, value_name = "KEY")]
    pub sort: Option<SortKey>,
    /// Repeat at this interval, at least 100ms, until Ctrl-C; a bare number is seconds
    #[arg(long, value_name = "DURATION", value_parser = list_interval)]
    pub watch: Option<Duration>,
    /// Print one JSON object per line (`keepalive schema list` describes them)
    #[arg(long)]
    pub json: bool,
    /// Show all processes that share a socket, and its cgroup or container
    #[arg(short, long, conflicts_with = "json")]
    pub wide: bool,
    /// Do not resolve the processes that own the sockets
    #[arg(long, conflicts_with = "pid")]
    pub no_owner: bool,
    /// Use this source of sockets
    #[arg(long, value_enum, default_value_t = SourceChoice::Auto)]
    pub source: SourceChoice,
    /// Raw BTF of the running kernel, if it does not show its own
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
    #[command(flatten)]
    pub sandbox: Sandbox,
    /// Show diagnostics
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub select: Selection,
}

impl List {
    /// Whether sockets in a state, the kernel's number, are shown.
    pub fn shows(&self, state: u8) -> bool {
        self.state.is_empty() || self.state.iter().any(|shown| shown.number() == state)
    }
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

/// States as `ss` spells them; the names in the JSON are accepted too.
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
    fn number(self) -> u8 {
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

impl SortKey {
    pub fn order(self) -> Order {
        match self {
            Self::State => Order::State,
            Self::Local => Order::Local,
            Self::Peer => Order::Peer,
            Self::Silence => Order::Silence,
            Self::Timer => Order::Timer,
            Self::Probe => Order::Probe,
            Self::RecvQ => Order::ReceiveQueue,
            Self::SendQ => Order::SendQueue,
            Self::Pid => Order::Pid,
        }
    }
}
