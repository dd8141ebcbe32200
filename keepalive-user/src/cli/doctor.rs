//! Arguments of `doctor`.

use clap::Args;

use super::Loading;

#[derive(Args, Debug)]
pub struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub loading: Loading,
    /// List every kernel field, and show the verifier's log where a program is refused
    #[arg(short, long)]
    pub verbose: bool,
}
