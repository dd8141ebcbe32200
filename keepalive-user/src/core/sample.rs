//! # A sample of a socket
//!
//! What the values of a sample mean by themselves, and names for the kernel's constants.

use keepalive_ebpf::TcpSample;

/// `include/net/tcp_states.h`.
pub mod state {
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

/// `icsk_pending`, `include/net/inet_connection_sock.h`.
pub mod pending {
    pub const RETRANS: u8 = 1;
    pub const PROBE0: u8 = 3;
    pub const LOSS_PROBE: u8 = 5;
    pub const REO_TIMEOUT: u8 = 6;
}

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

/// Bytes written and not sent.
pub fn unsent(sample: &TcpSample) -> u32 {
    sample.write_seq.wrapping_sub(sample.snd_nxt)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
