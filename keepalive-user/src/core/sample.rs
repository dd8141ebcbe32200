//! # A sample of a socket
//!
//! What the values of a sample mean by themselves.

use keepalive_ebpf::{Record, TcpSample};

use super::kernel::state;

/// Silence of the peer, jiffies: `keepalive_time_elapsed`, the smaller age of the last data and
/// the last ACK.
pub fn silence(sample: &TcpSample) -> Option<u32> {
    [last_data(sample), last_ack(sample)]
        .into_iter()
        .flatten()
        .min()
}

/// Since data was last received, jiffies; `None` = never.
pub fn last_data(sample: &TcpSample) -> Option<u32> {
    age(sample, sample.lrcvtime)
}

/// Since an acceptable ACK was last received, jiffies; `None` = never.
pub fn last_ack(sample: &TcpSample) -> Option<u32> {
    age(sample, sample.rcv_tstamp)
}

/// Since the peer's last keepalive or zero-window probe, jiffies; `None` = never, or that was not recorded.
///
/// Such a probe is an empty segment outside the window: `tcp_validate_incoming` answers it and does not count
/// it as an ACK. Of several within `tcp_invalid_ratelimit` (500 ms) only the first sets the stamp. Probes with
/// a byte of data (RFC 1122 section 4.2.3.6) do not set it.
pub fn peer_probe(sample: &TcpSample) -> Option<u32> {
    age(sample, sample.last_oow_ack_time)
}

/// Since the peer was last heard of, jiffies: its last segment, probes included.
pub fn heard(sample: &TcpSample) -> Option<u32> {
    [silence(sample), peer_probe(sample)]
        .into_iter()
        .flatten()
        .min()
}

/// Since the zero-window probe timer first ran, jiffies; `None` = it has not, or that was not recorded.
pub fn zero_window(sample: &TcpSample) -> Option<u32> {
    age(sample, sample.probes_tstamp)
}

/// Stamps are the low 32 bits of jiffies, and wrap.
fn age(sample: &TcpSample, stamp: u32) -> Option<u32> {
    (stamp != 0).then(|| (sample.jiffies as u32).wrapping_sub(stamp))
}

/// Length of the re-arm, jiffies; `None` if the timer was not re-armed.
pub fn rearmed(after: &TcpSample) -> Option<u64> {
    after
        .timer_pending
        .then(|| after.expires.saturating_sub(after.jiffies))
}

/// Since the first retransmission of what is being retransmitted (in SYN_SENT: since the first SYN), milliseconds;
/// `None` = none is, or that was not recorded.
pub fn retransmitting(sample: &TcpSample) -> Option<u64> {
    // `tcp_time_stamp_ms`: the monotonic clock.
    let now = (sample.time / 1_000_000) as u32;
    (sample.retrans_stamp != 0).then(|| now.wrapping_sub(sample.retrans_stamp).into())
}

/// Whether data waits although the peer's window has room for it: `tcp_write_wakeup` sends it then, and no
/// probe (`tcp_wnd_end`).
pub fn may_send(sample: &TcpSample) -> bool {
    let end = sample.snd_una.wrapping_add(sample.snd_wnd);
    unsent(sample) > 0 && end.wrapping_sub(sample.snd_nxt).cast_signed() > 0
}

/// Bytes written and not acknowledged at the end of a socket.
pub fn undelivered(record: &Record) -> u32 {
    let sequence = record.after.write_seq.wrapping_sub(record.after.snd_una);
    sequence.saturating_sub(has_flag(record.from_state).into())
}

/// Bytes of data written and not sent: without a FIN, which counts as one in sequence numbers.
pub fn data_unsent(sample: &TcpSample) -> u32 {
    unsent(sample).saturating_sub(has_flag(sample.state).into())
}

/// Whether the last sequence number may be that of a SYN or FIN.
fn has_flag(state: u8) -> bool {
    matches!(
        state,
        state::FIN_WAIT1 | state::CLOSING | state::LAST_ACK | state::SYN_SENT | state::SYN_RECV
    )
}

/// Sequence numbers written and not sent.
pub fn unsent(sample: &TcpSample) -> u32 {
    sample.write_seq.wrapping_sub(sample.snd_nxt)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The peer's probe is no ACK: keepalive still counts the 14 s.
    #[test]
    fn a_probe_of_the_peer_is_heard() {
        let sample = TcpSample {
            jiffies: 100_000,
            rcv_tstamp: 100_000 - 3_500,
            last_oow_ack_time: 100_000 - 25,
            ..TcpSample::default()
        };
        assert_eq!((silence(&sample), heard(&sample)), (Some(3_500), Some(25)));
        let never = TcpSample {
            last_oow_ack_time: 0,
            ..sample
        };
        assert_eq!(peer_probe(&never), None);
        assert_eq!(heard(&never), Some(3_500));
    }

    proptest! {
        /// Jiffies wrap five minutes after boot.
        #[test]
        fn silence_survives_the_wrap(now in any::<u64>(), data in 1u32..1 << 30, ack in 1u32..1 << 30) {
            let mut sample = TcpSample { jiffies: now, ..TcpSample::default() };
            sample.lrcvtime = (now as u32).wrapping_sub(data);
            sample.rcv_tstamp = (now as u32).wrapping_sub(ack);
            // A stamp of 0 means never, and is skipped.
            prop_assume!(sample.lrcvtime != 0 && sample.rcv_tstamp != 0);
            prop_assert_eq!(silence(&sample), Some(data.min(ack)));
        }
    }
}
