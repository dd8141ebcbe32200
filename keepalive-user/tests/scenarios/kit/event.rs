//! One line of the tracer's JSON output, and the checks that scenarios make on it.
//!
//! Fields are named by their path: `probes_out.after`, `socket.local.port`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

static NULL: Value = Value::Null;

/// What identifies a socket within a network namespace while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub netns: u64,
    pub local_port: u16,
    pub peer_port: u16,
}

/// An event as printed.
#[derive(Clone, Debug)]
pub struct Event(Arc<Value>);

impl Event {
    pub fn parse(line: &str) -> Result<Self> {
        let value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        Ok(Self(Arc::new(value)))
    }

    /// The field at a path; null if it is missing.
    pub fn get(&self, path: &str) -> &Value {
        let mut value = &*self.0;
        for name in path.split('.') {
            value = value.get(name).unwrap_or(&NULL);
        }
        value
    }

    /// The field at a path, which must be present; it may be null.
    pub fn present(&self, path: &str) -> Result<&Value> {
        let mut value = &*self.0;
        for name in path.split('.') {
            value = value
                .get(name)
                .with_context(|| format!("no field `{path}` in {self}"))?;
        }
        Ok(value)
    }

    pub fn kind(&self) -> &str {
        self.text("event")
    }

    /// A text field, empty if it is null or missing.
    pub fn text(&self, path: &str) -> &str {
        self.get(path).as_str().unwrap_or_default()
    }

    pub fn number(&self, path: &str) -> Result<u64> {
        self.get(path)
            .as_u64()
            .with_context(|| format!("`{path}` is not a number in {self}"))
    }

    /// The socket an event is about; `None` for `start`, `lost` and `end`.
    pub fn key(&self) -> Option<Key> {
        Some(Key {
            netns: self.get("socket.netns").as_u64()?,
            local_port: port(self.get("socket.local.port"))?,
            peer_port: port(self.get("socket.peer.port"))?,
        })
    }

    /// The field must be present and have this value.
    pub fn expect(&self, path: &str, expected: impl Into<Value>) -> Result<()> {
        let expected = expected.into();
        let found = self.present(path)?;
        ensure!(
            *found == expected,
            "`{path}` is {found}, expected {expected}, in {self}"
        );
        Ok(())
    }

    /// The field must be a number in this range, which is returned.
    pub fn expect_within(&self, path: &str, range: RangeInclusive<u64>) -> Result<u64> {
        let found = self.number(path)?;
        ensure!(
            range.contains(&found),
            "`{path}` is {found}, expected {} to {}, in {self}",
            range.start(),
            range.end()
        );
        Ok(found)
    }

    pub fn is(&self, kind: &str) -> bool {
        self.kind() == kind
    }

    pub fn is_timer(&self, decision: &str) -> bool {
        self.is("timer") && self.text("decision") == decision
    }

    /// `monotonic_ns`, which every event has.
    pub fn at_ns(&self) -> u64 {
        self.get("monotonic_ns").as_u64().unwrap_or_default()
    }

    /// The wall-clock time must be the monotonic time plus the offset in `start`.
    pub fn expect_clock(&self, offset_ns: i64) -> Result<()> {
        let text = self.text("timestamp");
        let Ok(wall) = text.parse::<jiff::Timestamp>() else {
            bail!("`timestamp` {text:?} is not an RFC 3339 time in {self}");
        };
        let expected = i128::from(self.number("monotonic_ns")?) + i128::from(offset_ns);
        ensure!(
            wall.as_nanosecond() == expected,
            "`timestamp` is {} ns from `monotonic_ns` + `clock_offset_ns` in {self}",
            wall.as_nanosecond() - expected
        );
        Ok(())
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}
