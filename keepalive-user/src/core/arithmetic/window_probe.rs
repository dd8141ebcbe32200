//! The zero-window probe timer: the end of a connection in a zero window.

use keepalive_ebpf::TcpSample;

use super::{ConnectionEnd, Effective};
use crate::core::{
    event::Cause,
    sample::{may_send, zero_window},
};

/// The end of a connection in a zero window whose peer stays silent, computed at a probe.
///
/// `tcp_probe_timer`: a run ends the connection if the user timeout has passed since the first
/// probe (`icsk_probes_tstamp`), else if `tcp_retries2` probes are outstanding; otherwise
/// `tcp_send_probe0` doubles the timeout up to the maximum (`tcp_probe0_when`).
fn window_end(effective: &Effective, sample: &TcpSample, next: u64) -> Option<ConnectionEnd> {
    let now = sample.jiffies as u32;
    let since = if sample.probes_tstamp == 0 {
        0
    } else {
        now.wrapping_sub(sample.probes_tstamp)
    };
    // The last wait is shortened to end on time (`tcp_clamp_probe0_to_user_timeout`). Without a stamp the
    // next run is the first, which sets it.
    let mut timeout = u64::from(effective.user_timeout.saturating_sub(since));
    if sample.probes_tstamp == 0 {
        timeout = timeout.saturating_add(next);
    }
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

/// The end of a connection whose persist timer is due in `next` jiffies; `None` if that is unknown.
pub fn persist_end(
    effective: &Effective,
    sample: &TcpSample,
    next: u64,
    hz: u32,
) -> Option<ConnectionEnd> {
    if sample.orphan {
        orphan_window_end(effective, sample, next)
    } else if may_send(sample) {
        send_end(effective, sample, next, hz)
    } else {
        window_end(effective, sample, next)
    }
}

/// As [`window_end`], while the window is open and this host cannot send: the same timer and counters. If the
/// queue of the device drops it, the timeout does not double: `TCP_RESOURCE_PROBE_INTERVAL`, half a second
/// (`tcp_send_probe0`).
fn send_end(
    effective: &Effective,
    sample: &TcpSample,
    next: u64,
    hz: u32,
) -> Option<ConnectionEnd> {
    let mut end = window_end(effective, sample, next)?;
    if sample.backoff == 0 && sample.probes_out > 0 {
        let retries = effective.retries2.min(255);
        let left = retries.saturating_sub(sample.probes_out.into());
        let after = next.saturating_add(u64::from(left) * u64::from(hz / 2));
        if after < end.after {
            end = ConnectionEnd {
                after,
                rule: Cause::WindowProbeTimeout,
            };
        }
    }
    let rule = if end.rule == Cause::WindowProbeUserTimeout {
        Cause::SendUserTimeout
    } else {
        Cause::SendTimeout
    };
    Some(ConnectionEnd { rule, ..end })
}

/// As [`window_end`], of a socket that no process holds, computed with the timer due in `next` jiffies;
/// `None` if nothing ends it, or that is unknown.
///
/// `tcp_probe_timer`, SOCK_DEAD: as many unanswered probes as [`Effective::orphan_limit`] end it; and once the
/// timeout has reached the maximum as many doublings, whether the peer answers or not. If the last probe was
/// answered, the next ones are assumed to be.
fn orphan_window_end(
    effective: &Effective,
    sample: &TcpSample,
    next: u64,
) -> Option<ConnectionEnd> {
    let is_answered = sample.probes_out == 0 && sample.backoff > 0;
    let (mut probes_out, mut backoff) = (u32::from(sample.probes_out), u32::from(sample.backoff));
    let user_timeout = match effective.user_timeout {
        0 => u64::MAX,
        timeout => match zero_window(sample) {
            Some(since) => timeout.saturating_sub(since).into(),
            None => u64::from(timeout).saturating_add(next),
        },
    };
    let mut after = next;
    loop {
        let end = |rule| Some(ConnectionEnd { after, rule });
        if after >= user_timeout {
            return end(Cause::OrphanUserTimeout);
        }
        // `inet_csk_rto_backoff`.
        let timeout = u64::from(sample.rto.max(1)) << backoff.min(31);
        let limit = effective.orphan_limit(timeout)?;
        let is_over = !effective.is_alive(timeout) && backoff >= limit;
        if is_over || probes_out >= limit {
            return end(Cause::OrphanTimeout);
        }
        if !is_answered {
            probes_out += 1;
        }
        if backoff < effective.retries2.min(255) {
            backoff += 1;
        } else if is_answered {
            return None;
        }
        let wait = probe0_when(sample.rto, backoff, effective.rto_max);
        after = after.saturating_add(wait).min(user_timeout.max(after));
    }
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

    /// Measured with a maximal timeout of 4 s: a peer that answers loses it after the probe at 3.2 s of
    /// backoff 5, the first at which the timeout would be the maximum.
    #[test]
    fn an_orphan_is_given_up_though_the_peer_answers() {
        let after = |probes_out, rto_max, user_timeout| {
            let sample = TcpSample {
                jiffies: 1_000_000,
                probes_tstamp: 1_000_000,
                rto: HZ / 5,
                probes_out,
                backoff: 1,
                ..TcpSample::default()
            };
            let effective = Effective {
                rto_max,
                ..effective(HZ, 9, user_timeout)
            };
            let end = orphan_window_end(&effective, &sample, 100).unwrap();
            (end.after, end.rule)
        };
        // Runs at backoff 1, 2, 3 and 4, and one at backoff 5, which ends it.
        let answered = u64::from(100 + (4 + 8 + 16) * HZ / 5 + 4 * HZ);
        assert_eq!(after(0, 4 * HZ, 0), (answered, Cause::OrphanTimeout));
        // Eight unanswered probes: seven more waits.
        let waits: u32 = (2..=8).map(|doublings| (HZ / 5) << doublings).sum();
        let counted = u64::from(100 + waits);
        assert_eq!(after(1, 120 * HZ, 0), (counted, Cause::OrphanTimeout));
        let timed = (u64::from(2 * HZ), Cause::OrphanUserTimeout);
        assert_eq!(after(1, 120 * HZ, 2 * HZ), timed);
    }

    /// More retries than doublings, all answered: nothing ends it.
    #[test]
    fn an_orphan_may_stay() {
        let sample = TcpSample {
            rto: HZ / 5,
            backoff: 15,
            ..TcpSample::default()
        };
        let many = Effective {
            orphan_retries: Some(16),
            ..effective(HZ, 9, 0)
        };
        assert_eq!(orphan_window_end(&many, &sample, 100), None);
    }

    /// The queue drops each retry: 15 of them at half a second, not doubled.
    #[test]
    fn a_full_queue_ends_it_soon() {
        let sample = TcpSample {
            rto: HZ / 5,
            probes_out: 3,
            ..TcpSample::default()
        };
        let end = send_end(&effective(HZ, 9, 0), &sample, 125, HZ).unwrap();
        assert_eq!((end.after, end.rule), (125 + 12 * 125, Cause::SendTimeout));
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
