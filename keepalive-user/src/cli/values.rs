//! Values with a syntax of their own.

use std::{borrow::Cow, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use jiff::fmt::friendly::SpanParser;

/// A time as jiff reads it ("friendly": 500ms, 30s, 1h30m, 2 hours); a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration> {
    /// Some 8,900 years.
    const MOST: Duration = Duration::from_millis(1 << 48);
    let is_bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let with_unit = if is_bare {
        Cow::Owned(format!("{text}s"))
    } else {
        Cow::Borrowed(text)
    };
    // jiff's errors are written for programmers, so they are replaced.
    let duration = SpanParser::new()
        .parse_duration(with_unit.as_bytes())
        .map_err(|_| anyhow!("not a time: use ms, s, m or h, as in {DURATIONS}"))?;
    ensure!(
        duration.is_positive(),
        "not longer than zero: use a time such as {DURATIONS}"
    );
    let duration = duration.unsigned_abs();
    ensure!(duration <= MOST, "too long: use a time such as {DURATIONS}");
    Ok(duration)
}

/// The interval of repeated listings, each of which visits all sockets of the machine.
pub fn list_interval(text: &str) -> Result<Duration> {
    const LEAST: Duration = Duration::from_millis(100);
    let interval = duration(text)?;
    ensure!(interval >= LEAST, "shorter than 100ms");
    Ok(interval)
}

const DURATIONS: &str = "500ms, 30s, 10m or 1h30m";

pub fn ring_bytes(text: &str) -> Result<u32> {
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
    fn durations() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2h").unwrap(), Duration::from_hours(2));
        assert_eq!(duration("1h30m").unwrap(), Duration::from_mins(90));
        assert_eq!(duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("10 minutes").unwrap(), Duration::from_mins(10));
        for (bad, message) in [
            ("5x", "not a time: use ms, s, m or h"),
            ("1d", "not a time: use ms, s, m or h"),
            ("1h30", "not a time: use ms, s, m or h"),
            ("30 ", "not a time: use ms, s, m or h"),
            ("0ms", "not longer than zero: use a time such as 500ms"),
            ("1s ago", "not longer than zero: use a time such as 500ms"),
            ("9000000000000h", "too long: use a time such as 500ms"),
        ] {
            let error = duration(bad).unwrap_err().to_string();
            assert!(error.starts_with(message), "{bad}: {error}");
        }
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
    fn intervals_of_listings() {
        assert_eq!(list_interval("2").unwrap(), Duration::from_secs(2));
        assert_eq!(list_interval("500ms").unwrap(), Duration::from_millis(500));
        assert!(list_interval("99ms").is_err());
    }

    #[test]
    fn ring_sizes() {
        assert_eq!(ring_bytes("4096").unwrap(), 4096);
        for bad in ["0", "4095", "5000", "4294967296", "x"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
