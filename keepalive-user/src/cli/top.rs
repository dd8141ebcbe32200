//! Arguments of `top`.

use clap::Args;

use super::{Loading, Selection};

const EXAMPLES: &str = "\
Examples:
  keepalive top                           every socket with keepalive, closest to death first
  keepalive top -R 5432                   only connections to PostgreSQL
  keepalive top -p 4711                   the sockets of one process

Keys: up/down choose, Enter explain, s sort, / filter, p pause, r record, q quit.
r begins a recording in the current directory, and r again ends it: `keepalive replay FILE`
replays it.

PROBES is how many are unanswered of how many end the connection (2/9); with ut TCP_USER_TIMEOUT ends
it instead, and window counts zero-window probes. RTT has a mark for each of the last probes: a
higher bar is a slower answer, · one at an unknown time, ? late or lost, × none. LATEST is the last round-trip time.
- is none, or unknown.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Top {
    /// Show answers when they arrive, not within a second: hooks tcp_ack, which is hot
    #[arg(long)]
    pub live_answers: bool,
    #[command(flatten)]
    pub loading: Loading,
    #[command(flatten)]
    pub select: Selection,
}
