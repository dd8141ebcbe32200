//! # What a record may be
//!
//! Records come from the ring buffer and from recordings, and recordings come from anybody. Whatever
//! enumerates or flags something is checked here, where they come in, so that nothing further right
//! meets a kind it has no rule for. What does not pass is counted as a decode loss.
//!
//! Kernel constants that later kernels add to (TCP states, address families, errnos) are not
//! checked: an unknown one is shown as unknown.

use std::fmt;

use keepalive_ebpf::{
    FLAG_PROCESS_CONTEXT, FLAG_SWITCHING_OFF, FLAG_SWITCHING_ON, FLAG_WAKEUP_SEEN,
    FLAG_WAKEUP_WATCHED, Identity, KIND_ACK, KIND_CLOSE, KIND_CLOSING, KIND_ESTABLISHED,
    KIND_KEEPALIVE_TIMER, KIND_LISTED, KIND_LOOKED, KIND_OWNER, KIND_SETSOCKOPT, KIND_WINDOW_PROBE,
    Record, TcpSample, WITHIN_KEEPALIVE_TIMER, WITHIN_NOTHING, WITHIN_PROBE_TIMER,
    WITHIN_RETRANSMIT_TIMER,
};
use zerocopy::TryFromBytes;

/// `Record::kind`.
#[repr(u8)]
#[expect(dead_code, reason = "made of bytes, not by name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
pub enum Kind {
    KeepaliveTimer = KIND_KEEPALIVE_TIMER,
    WindowProbe = KIND_WINDOW_PROBE,
    Setsockopt = KIND_SETSOCKOPT,
    Established = KIND_ESTABLISHED,
    Close = KIND_CLOSE,
    Ack = KIND_ACK,
    Closing = KIND_CLOSING,
    Owner = KIND_OWNER,
    Looked = KIND_LOOKED,
    Listed = KIND_LISTED,
}

impl Kind {
    pub fn of(record: &Record) -> Option<Self> {
        Self::try_read_from_bytes(&[record.kind]).ok()
    }
}

/// `Record::within`.
#[repr(u8)]
#[expect(dead_code, reason = "made of bytes, not by name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes)]
pub enum Within {
    Nothing = WITHIN_NOTHING,
    KeepaliveTimer = WITHIN_KEEPALIVE_TIMER,
    RetransmitTimer = WITHIN_RETRANSMIT_TIMER,
    ProbeTimer = WITHIN_PROBE_TIMER,
}

impl Within {
    pub fn of(record: &Record) -> Option<Self> {
        Self::try_read_from_bytes(&[record.within]).ok()
    }
}

/// All flags there are.
const FLAGS: u8 = FLAG_WAKEUP_SEEN
    | FLAG_WAKEUP_WATCHED
    | FLAG_PROCESS_CONTEXT
    | FLAG_SWITCHING_ON
    | FLAG_SWITCHING_OFF;

/// A field with a value that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub field: &'static str,
    pub value: u8,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown {} {}", self.field, self.value)
    }
}

impl std::error::Error for Unknown {}

/// Whether every enumeration, flag and boolean of a record has a known value.
///
/// # Errors
/// Names the first that has not.
pub fn check(record: &Record) -> Result<(), Unknown> {
    let known = |known: bool, field, value| known.then_some(()).ok_or(Unknown { field, value });
    known(Kind::of(record).is_some(), "record kind", record.kind)?;
    known(
        Within::of(record).is_some(),
        "enclosing timer",
        record.within,
    )?;
    let flags = record.flags & !FLAGS;
    known(flags == 0, "record flags", flags)?;
    check_identity(&record.id)?;
    check_numbers(&record.before)?;
    check_numbers(&record.after)
}

/// As [`check`], of who a socket is.
///
/// # Errors
/// Names the first field with an unknown value.
pub fn check_identity(id: &Identity) -> Result<(), Unknown> {
    boolean("keepopen", id.keepopen)?;
    boolean("orphan", id.orphan)?;
    match id.mptcp {
        0 | 1 | u8::MAX => Ok(()),
        value => Err(Unknown {
            field: "mptcp",
            value,
        }),
    }
}

fn check_numbers(numbers: &TcpSample) -> Result<(), Unknown> {
    boolean("timer_pending", numbers.timer_pending)?;
    boolean("owned", numbers.owned)?;
    boolean("keepopen", numbers.keepopen)?;
    boolean("orphan", numbers.orphan)
}

fn boolean(field: &'static str, value: u8) -> Result<(), Unknown> {
    match value {
        0 | 1 => Ok(()),
        value => Err(Unknown { field, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound record with one field changed.
    fn with(change: impl Fn(&mut Record)) -> Result<(), Unknown> {
        let mut record = Record {
            kind: KIND_KEEPALIVE_TIMER,
            ..Record::default()
        };
        change(&mut record);
        check(&record)
    }

    #[test]
    fn every_known_value_passes() {
        for kind in (1..=9).chain([128]) {
            assert_eq!(with(|it| it.kind = kind), Ok(()), "{kind}");
        }
        for within in 0..=3 {
            assert_eq!(with(|it| it.within = within), Ok(()), "{within}");
        }
        for flags in 0..32 {
            assert_eq!(with(|it| it.flags = flags), Ok(()), "{flags}");
        }
        for mptcp in [0, 1, 255] {
            assert_eq!(with(|it| it.id.mptcp = mptcp), Ok(()), "{mptcp}");
        }
        // Kernel constants that grow.
        assert_eq!(with(|it| it.id.state = 99), Ok(()));
        assert_eq!(with(|it| it.from_state = 255), Ok(()));
        assert_eq!(with(|it| it.id.family = 77), Ok(()));
    }

    #[test]
    fn every_other_value_is_named() {
        let error = |change: fn(&mut Record)| with(change).unwrap_err().to_string();
        assert_eq!(error(|it| it.kind = 0), "unknown record kind 0");
        assert_eq!(error(|it| it.kind = 10), "unknown record kind 10");
        assert_eq!(error(|it| it.kind = 255), "unknown record kind 255");
        assert_eq!(error(|it| it.within = 4), "unknown enclosing timer 4");
        assert_eq!(error(|it| it.flags = 0x21), "unknown record flags 32");
        assert_eq!(error(|it| it.id.mptcp = 2), "unknown mptcp 2");
        for change in [
            (|it| it.id.keepopen = 2) as fn(&mut Record),
            |it| it.id.orphan = 2,
            |it| it.before.owned = 2,
            |it| it.after.owned = 255,
            |it| it.after.timer_pending = 2,
            |it| it.before.keepopen = 2,
            |it| it.after.orphan = 7,
        ] {
            assert!(with(change).is_err());
        }
    }
}
