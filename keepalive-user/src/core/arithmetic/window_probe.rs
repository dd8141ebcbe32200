//! The zero-window probe timer: the end of a connection in a zero window.

use keepalive_ebpf::TcpSample;

use super::{ConnectionEnd, Effective};
use crate::core::event::Cause;

/// The end of a connection in a zero window whose peer stays silent, computed at a probe.
///
/// `tcp_probe_timer`: a run ends the connection if the user timeout has passed since the first
/// probe (`icsk_probes_tstamp`), else if `tcp_retries2` probes are outstanding; otherwise
/// `tcp_send_probe0` doubles the timeout up to the maximum (`tcp_probe0_when`).
pub fn window_end(effective: &Effective, sample: &TcpSample, next: u64) -> Option<ConnectionEnd> {
    let now = sample.jiffies as u32;
    let since = if sample.probes_tstamp == 0 {
        0
    } else {
        now.wrapping_sub(sample.probes_tstamp)
    };
    // The last wait is shortened to end on time (`tcp_clamp_probe0_to_user_timeout`).
    let timeout = u64::from(effective.user_timeout.saturating_sub(since));
    // The counter is a byte in the kernel.
    let retries2 = effective.retries2.min(255);
    let mut after = next;
    let mut probes_out = u32::from(sample.probes_out);
    let mut backoff = u32::from(sample.backoff);
    while probes_out < retries2 {
        if effective.user_timeout != 0 && after >= timeout {
            return Some(ConnectionEnd {
                after: timeout.max(next),
                rule: Cause::WindowProbeUserTimeout,
            });
        }
        probes_out += 1;
        if backoff < retries2 {
            backoff += 1;
        }
        after = after.saturating_add(probe0_when(sample.rto, backoff, effective.rto_max));
    }
    let rule = if effective.user_timeout != 0 && after >= timeout {
        after = timeout.max(next);
        Cause::WindowProbeUserTimeout
    } else {
        Cause::WindowProbeTimeout
    };
    Some(ConnectionEnd { after, rule })
}

/// As [`window_end`], while the window is open and this host cannot send: the same timer and counters.
pub fn send_end(effective: &Effective, sample: &TcpSample, next: u64) -> Option<ConnectionEnd> {
    let end = window_end(effective, sample, next)?;
    let rule = if end.rule == Cause::WindowProbeUserTimeout {
        Cause::SendUserTimeout
    } else {
        Cause::SendTimeout
    };
    Some(ConnectionEnd { rule, ..end })
}

/// `tcp_probe0_when` (include/net/tcp.h), without its floor for timeouts below the minimum RTO.
fn probe0_when(rto: u32, backoff: u32, rto_max: u32) -> u64 {
    // `ilog2(TCP_RTO_MAX / TCP_RTO_MIN) + 1` bounds the shift in the kernel; the cap does here.
    let shifted = u64::from(rto.max(1)) << backoff.min(31);
    shifted.min(u64::from(rto_max.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::arithmetic::tests::{HZ, effective};

    /// `tcp_clamp_probe0_to_user_timeout` (tcp_timer.c) shortens the last wait, so that the user
    /// timeout ends it on time: 20 s after the first probe, not at the next doubling.
    #[test]
    fn a_user_timeout_in_a_zero_window_is_not_rounded_up_to_a_probe() {
        let sample = TcpSample {
            jiffies: 1_000_000,
            probes_tstamp: 1_000_000 - 300,
            rto: HZ / 5,
            probes_out: 3,
            backoff: 3,
            ..TcpSample::default()
        };
        let end = window_end(&effective(HZ, 9, 20 * HZ), &sample, 400).unwrap();
        assert_eq!(end.rule, Cause::WindowProbeUserTimeout);
        assert!(end.after <= u64::from(20 * HZ - 300), "{end:?}");
    }

    proptest! {
        #[test]
        fn window_end_is_never_before_the_next_probe(
            rto in any::<u32>(), backoff in any::<u8>(), probes_out in any::<u8>(),
            tstamp in any::<u32>(), jiffies in any::<u64>(), user_timeout in any::<u32>(), next in 0u64..1 << 40,
        ) {
            let sample = TcpSample { rto, backoff, probes_out, probes_tstamp: tstamp, jiffies, ..TcpSample::default() };
            let end = window_end(&effective(HZ, 9, user_timeout), &sample, next).unwrap();
            prop_assert!(end.after >= next);
        }
    }
}
