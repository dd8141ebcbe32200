//! # Format
//!
//! Numbers, durations and names as text, and escaping of untrusted text: one form of each for all
//! outputs.

use std::{borrow::Cow, fmt};

/// A duration in a sentence: `350 µs`, `41.3 ms`, `75.0 s`, `2 h 11 min`.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => tenths(us / 100, "ms"),
        _ => millis(us / 1000),
    }
}

pub fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..600_000 => tenths(ms / 100, "s"),
        600_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => {
            let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
            if minutes == 0 {
                format!("{hours} h")
            } else {
                format!("{hours} h {minutes} min")
            }
        }
    }
}

/// Seconds, exact: `75`, `75.250`.
pub fn seconds(ms: u64) -> String {
    match ms % 1000 {
        0 => (ms / 1000).to_string(),
        rest => format!("{}.{rest:03}", ms / 1000),
    }
}

/// A duration in few characters, for tables: `250ms`, `7.9s`, `75s`, `59m12s`, `1h59m`, `3d4h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    pub large: u64,
    pub unit: &'static str,
    pub small: Option<(u64, &'static str)>,
}

impl Brief {
    pub fn of(ms: u64) -> Self {
        let s = ms / 1000;
        let (large, unit, small) = match ms {
            0..1_000 => (ms, "ms", None),
            1_000..10_000 => (s, ".", Some((ms % 1000 / 100, "s"))),
            10_000..100_000 => (s, "s", None),
            100_000..6_000_000 => (s / 60, "m", Some((s % 60, "s"))),
            6_000_000..172_800_000 => (s / 3600, "h", Some((s / 60 % 60, "m"))),
            172_800_000.. => (s / 86_400, "d", Some((s / 3600 % 24, "h"))),
        };
        Self { large, unit, small }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.large, self.unit)?;
        match self.small {
            Some((number, unit)) => write!(f, "{number}{unit}"),
            None => Ok(()),
        }
    }
}

/// Tenths of a unit, without `.0`.
pub fn tenths(tenths: u64, unit: &str) -> String {
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 socket`, `1234 sockets`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", ending(number))
}

/// As [`plural`], for large numbers: `1,234 sockets`.
pub fn plural_grouped(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), ending(number))
}

fn ending(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// The name of a cause, a decision or another variant, as in JSON.
pub fn name(value: impl Into<&'static str>) -> &'static str {
    value.into()
}

/// Escapes text that came from a process or a path: a process chooses its own name, and a terminal
/// interprets control characters.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let harmless = text.chars().flat_map(|character| {
        let (plain, escaped) = if is_harmful(character) {
            (None, Some(character.escape_unicode()))
        } else {
            (Some(character), None)
        };
        plain.into_iter().chain(escaped.into_iter().flatten())
    });
    Cow::Owned(harmless.collect())
}

/// Control characters, and the format characters that reorder or hide text.
pub fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let parts = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(parts, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
        assert_eq!(plural_grouped(1, "socket"), "1 socket");
    }
}
