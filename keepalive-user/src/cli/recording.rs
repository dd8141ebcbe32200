//! Arguments for recordings: making, replaying and rendering them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::Selection;
use crate::{
    core::{recording::Limits, target::Target},
    machine::recorder::Destination,
};

/// Whether and how to record.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Recording")]
pub struct Recording {
    /// Keep everything in this file, for `keepalive replay` and `keepalive report`
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Compress the recording with zstd
    #[arg(long, requires = "record")]
    pub record_zstd: bool,
    /// Start a new file after this size: 500K, 100M, 2G; FILE becomes FILE.1, FILE.1 FILE.2, …
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "record")]
    pub record_size: Option<u64>,
    /// Files to keep, the one being written included
    #[arg(long, value_name = "COUNT", default_value_t = 10, requires = "record_size",
        value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub record_files: u32,
    /// Record at most so many records a second, and count what is left out
    #[arg(long, value_name = "COUNT", requires = "record",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub record_rate: Option<u64>,
    /// Overwrite the recording, its rotated files and the report if they exist
    #[arg(long)]
    pub force: bool,
}

impl Recording {
    /// The requested recording.
    pub fn destination(&self) -> Option<Destination> {
        let limits = Limits {
            size: self.record_size,
            files: self.record_files,
            rate: self.record_rate,
            compressed: self.record_zstd,
        };
        self.record.as_ref().map(|path| Destination {
            path: path.clone(),
            limits,
            force: self.force,
        })
    }
}

const EXAMPLES: &str = "\
Examples:
  keepalive replay trace.kar              what `trace` printed when it was recorded
  keepalive replay trace.kar --json -R 5432 | jq .
  keepalive replay trace.kar.2 trace.kar.1 trace.kar    the files of one long trace
  keepalive replay trace.kar --check      only check that it is whole";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Replay {
    /// Recordings made by `keepalive trace --record`, of one trace; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Stop after this many events
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print one JSON object per line (`keepalive schema` describes them)
    #[arg(long)]
    pub json: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Decode everything, and print only whether the recording is whole
    #[arg(long, conflicts_with_all = ["json", "output"])]
    pub check: bool,
    #[command(flatten)]
    pub select: Selection,
}

const REPORT_EXAMPLES: &str = "\
Examples:
  keepalive report trace.kar -o report.html          everything on one page: open it in a browser
  keepalive report trace.kar -o report.html -R 5432  only connections to PostgreSQL
  keepalive report trace.kar -o report.svg           a picture of all
  keepalive report trace.kar -o one.svg --socket :5432
  keepalive trace --report report.html               without a recording

The page loads nothing and sends nothing: it can be mailed, kept, and opened anywhere.";

#[derive(Args, Debug)]
#[command(after_help = REPORT_EXAMPLES)]
pub struct Report {
    /// Recordings made by `keepalive trace --record`, of one trace; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Write to this file: .html for a page, .svg for a picture
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Overwrite it if it exists
    #[arg(long)]
    pub force: bool,
    /// Of one socket: :PORT, ADDR:PORT, LOCAL-PEER, sk:COOKIE, or a PID that has one
    #[arg(long, value_name = "SOCKET")]
    pub socket: Option<Target>,
    #[command(flatten)]
    pub select: Selection,
}

/// Bytes, with K, M or G for powers of 1024, as in `split`, `truncate` and `journalctl`. The crates that
/// parse sizes (bytesize, parse-size) read `100M` as 100,000,000 bytes, or need an option against that, and
/// accept fractions; using one would not save code.
fn size(text: &str) -> Result<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => anyhow::bail!("unknown unit {unit:?}: use K, M or G, as in 500K, 100M or 2G"),
    };
    let bytes = number
        .parse::<u64>()
        .context("a size, such as 500K, 100M or 2G")?
        .checked_mul(1 << shift)
        .context("too large")?;
    ensure!(bytes >= 1 << 16, "at least 64K");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("64K").unwrap(), 1 << 16);
        assert_eq!(size("2G").unwrap(), 2 << 30);
        for bad in ["", "K", "1K", "5X", "-1M", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
