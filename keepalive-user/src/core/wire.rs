//! # Bytes to records
//!
//! Records come from the ring buffer and from recordings, which are untrusted. They are
//! checked here, once, at the edge: every kind, flag and boolean of a [`Record`] is a defined value. A
//! record that does not pass is counted as a decode loss.
//!
//! Kernel constants that later kernels add to (TCP states, address families, errnos) are not
//! checked: an unknown one is shown as unknown.

use std::fmt;

use keepalive_ebpf::{Identity, Kind, Mptcp, RawRecord, Record, RecordFlags, TcpSample, Within};
use zerocopy::{FromBytes, IntoBytes, TryFromBytes, try_transmute, try_transmute_ref};

/// 32-bit words of an [`Identity`], before they are checked.
pub type RawIdentity = [u32; size_of::<Identity>() / size_of::<u32>()];

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

/// The record in these bytes, in place.
///
/// # Errors
/// Names a field with an unknown value.
#[inline]
pub fn record(raw: &RawRecord) -> Result<&Record, Unknown> {
    let Ok(record): Result<&Record, _> = try_transmute_ref!(raw) else {
        return Err(named(unknown_in_record(raw.as_bytes())));
    };
    // zerocopy accepts any byte as flags.
    let unknown = record.flags.difference(RecordFlags::all());
    if unknown.is_empty() {
        Ok(record)
    } else {
        Err(Unknown {
            field: "record flags",
            value: unknown.bits(),
        })
    }
}

/// As [`record`], for the identity of a socket.
///
/// # Errors
/// Names a field with an unknown value.
pub fn identity(raw: RawIdentity) -> Result<Identity, Unknown> {
    let identity: Result<Identity, _> = try_transmute!(raw);
    identity.map_err(|_| named(unknown_in_identity(raw.as_bytes())))
}

/// The lists below contain every field that can have an invalid value: see the tests.
fn named(unknown: Option<Unknown>) -> Unknown {
    unknown.unwrap_or(Unknown {
        field: "record",
        value: 0,
    })
}

/// Finds the first field in some bytes that has no value of its type. A field of the struct that is in
/// none of the lists does not compile, nor does a field in `plain` that has invalid values.
macro_rules! first_unknown {
    ($bytes:ident: $struct:ident {
        checked: [$($field:ident: $type:ty = $name:literal),+ $(,)?],
        nested: [$($inner:ident: $check:ident),* $(,)?],
        plain: [$($plain:ident),+ $(,)?] $(,)?
    }) => {{
        let _ = |all: &$struct| {
            fn can_be_any_bytes<T: FromBytes>(_: &T) {}
            let $struct { $($field,)+ $($inner: _,)* $($plain,)+ } = all;
            $(let _: &$type = $field;)+
            $(can_be_any_bytes($plain);)+
        };
        let unknown = None;
        $(let unknown = unknown.or_else(|| {
            let field = $bytes.get(std::mem::offset_of!($struct, $field)..)?;
            let value = *field.first()?;
            let is_known = <$type>::try_read_from_prefix(field).is_ok();
            (!is_known).then_some(Unknown { field: $name, value })
        });)+
        $(let unknown = unknown.or_else(|| {
            $check($bytes.get(std::mem::offset_of!($struct, $inner)..)?)
        });)*
        unknown
    }};
}

#[cold]
fn unknown_in_record(bytes: &[u8]) -> Option<Unknown> {
    first_unknown!(bytes: Record {
        checked: [kind: Kind = "record kind", within: Within = "enclosing timer"],
        nested: [
            id: unknown_in_identity,
            before: unknown_in_sample,
            after: unknown_in_sample,
        ],
        plain: [
            flags, from_state, wakeup_result, cpu, tgid, comm, route, exit_code, reserved, settings,
        ],
    })
}

#[cold]
fn unknown_in_identity(bytes: &[u8]) -> Option<Unknown> {
    first_unknown!(bytes: Identity {
        checked: [keepopen: bool = "keepopen", orphan: bool = "orphan", mptcp: Mptcp = "mptcp"],
        nested: [],
        plain: [
            sk, cookie, inode, cgroup, local, peer, netns, local_port, peer_port, family, state,
            shutdown, reserved, error, error_soft,
        ],
    })
}

#[cold]
fn unknown_in_sample(bytes: &[u8]) -> Option<Unknown> {
    first_unknown!(bytes: TcpSample {
        checked: [
            timer_pending: bool = "timer_pending",
            owned: bool = "owned",
            keepopen: bool = "keepopen",
            orphan: bool = "orphan",
        ],
        nested: [],
        plain: [
            time, jiffies, expires, clock_cache, rcv_tstamp, lrcvtime, probes_tstamp, packets_out,
            write_seq, snd_nxt, snd_una, snd_wnd, segs_out, rto, segs_in, data_segs_in,
            last_oow_ack_time, retrans_stamp, probes_out, backoff, retransmits, pending, state,
            reserved,
        ],
    })
}

#[cfg(test)]
pub mod tests {
    use std::mem::offset_of;

    use zerocopy::transmute;

    use super::*;

    /// A valid record with one byte changed.
    fn with(at: usize, value: u8) -> Result<(), Unknown> {
        let mut raw: RawRecord = transmute!(Record::new(Kind::KeepaliveTimer));
        raw.as_mut_bytes()[at] = value;
        record(&raw).map(drop)
    }

    /// Any bytes as a valid record of any kind: enumerations and flags are made valid.
    pub fn sound(bytes: &[u8]) -> Record {
        let mut raw = RawRecord::read_from_bytes(bytes).unwrap();
        let bytes = raw.as_mut_bytes();
        bytes[KIND] = match bytes[KIND] % 10 {
            0 => Kind::Listed as u8,
            kind => kind,
        };
        bytes[WITHIN] %= 4;
        bytes[FLAGS] &= RecordFlags::all().bits();
        bytes[MPTCP] = match bytes[MPTCP] % 3 {
            2 => Mptcp::Unknown as u8,
            mptcp => mptcp,
        };
        for id in [offset_of!(Identity, keepopen), offset_of!(Identity, orphan)] {
            bytes[ID + id] &= 1;
        }
        for sample in [
            offset_of!(TcpSample, timer_pending),
            offset_of!(TcpSample, owned),
            offset_of!(TcpSample, keepopen),
            offset_of!(TcpSample, orphan),
        ] {
            bytes[BEFORE + sample] &= 1;
            bytes[AFTER + sample] &= 1;
        }
        *record(&raw).unwrap()
    }

    const KIND: usize = offset_of!(Record, kind);
    const WITHIN: usize = offset_of!(Record, within);
    const FLAGS: usize = offset_of!(Record, flags);
    const ID: usize = offset_of!(Record, id);
    const MPTCP: usize = ID + offset_of!(Identity, mptcp);
    const BEFORE: usize = offset_of!(Record, before);
    const AFTER: usize = offset_of!(Record, after);

    #[test]
    fn every_known_value_passes() {
        for kind in (1..=9).chain([128]) {
            assert_eq!(with(KIND, kind), Ok(()), "{kind}");
        }
        for within in 0..=3 {
            assert_eq!(with(WITHIN, within), Ok(()), "{within}");
        }
        for flags in 0..64 {
            assert_eq!(with(FLAGS, flags), Ok(()), "{flags}");
        }
        for mptcp in [0, 1, 255] {
            assert_eq!(with(MPTCP, mptcp), Ok(()), "{mptcp}");
        }
        // Kernel constants that may grow.
        assert_eq!(with(ID + offset_of!(Identity, state), 99), Ok(()));
        assert_eq!(with(offset_of!(Record, from_state), 255), Ok(()));
        assert_eq!(with(ID + offset_of!(Identity, family), 77), Ok(()));
    }

    #[test]
    fn every_other_value_is_named() {
        let error = |at, value| with(at, value).unwrap_err().to_string();
        assert_eq!(error(KIND, 0), "unknown record kind 0");
        assert_eq!(error(KIND, 10), "unknown record kind 10");
        assert_eq!(error(KIND, 255), "unknown record kind 255");
        assert_eq!(error(WITHIN, 4), "unknown enclosing timer 4");
        assert_eq!(error(FLAGS, 0x41), "unknown record flags 64");
        assert_eq!(error(MPTCP, 2), "unknown mptcp 2");
        for (at, value, expected) in [
            (ID + offset_of!(Identity, keepopen), 2, "keepopen"),
            (ID + offset_of!(Identity, orphan), 2, "orphan"),
            (BEFORE + offset_of!(TcpSample, owned), 2, "owned"),
            (AFTER + offset_of!(TcpSample, owned), 255, "owned"),
            (
                AFTER + offset_of!(TcpSample, timer_pending),
                2,
                "timer_pending",
            ),
            (BEFORE + offset_of!(TcpSample, keepopen), 2, "keepopen"),
            (AFTER + offset_of!(TcpSample, orphan), 7, "orphan"),
        ] {
            assert_eq!(error(at, value), format!("unknown {expected} {value}"));
        }
    }

    /// Every value that zerocopy rejects is named in the error.
    #[test]
    fn no_byte_is_refused_without_a_name() {
        let mut refused = 0;
        for at in 0..size_of::<Record>() {
            for value in 0..=255 {
                if let Err(unknown) = with(at, value) {
                    assert_ne!(unknown.field, "record", "byte {at}: {value}");
                    let bits = if at == FLAGS { value & !63 } else { value };
                    assert_eq!(unknown.value, bits, "byte {at}");
                    refused += 1;
                }
            }
        }
        // Kinds, timers, flags, mptcp, and ten booleans.
        assert_eq!(refused, 246 + 252 + 192 + 253 + 10 * 254);
    }

    #[test]
    fn an_identity_alone_is_checked_too() {
        let raw = |mptcp| {
            let mut raw: RawIdentity = transmute!(Identity::default());
            raw.as_mut_bytes()[offset_of!(Identity, mptcp)] = mptcp;
            identity(raw)
        };
        assert_eq!(raw(255).map(|id| id.mptcp), Ok(Mptcp::Unknown));
        assert_eq!(raw(3).unwrap_err().to_string(), "unknown mptcp 3");
    }
}
