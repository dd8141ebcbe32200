//! The retransmission timer: the end of a connection whose data is not acknowledged.

use keepalive_ebpf::TcpSample;

use super::{ConnectionEnd, Effective};
use crate::core::{event::Cause, kernel::rto_min};

/// The end of a connection whose data is not acknowledged, computed with a retransmission timer due in
/// `next` jiffies.
///
/// `tcp_write_timeout`: from the first retransmission on, the user timeout, to which the last wait is
/// shortened (`tcp_clamp_rto_to_user_timeout`); without one the first timeout after the time that
/// `tcp_retries2` timeouts would take (`retransmits_timed_out`). The time since the first retransmission
/// follows from the present timeout and the number of doublings. Approximate: if the path became
/// slower, the earlier timeouts were shorter.
pub fn retransmit_end(
    effective: &Effective,
    sample: &TcpSample,
    next: u64,
    hz: u32,
) -> Option<ConnectionEnd> {
    if sample.rto == 0 {
        return None;
    }
    let rto_min = u64::from(rto_min(hz));
    let rto_max = u64::from(effective.rto_max.max(1));
    let shortest = u64::from(sample.rto >> sample.backoff.min(31)).max(rto_min);
    let wait = |number: u32| (shortest << number.min(31)).min(rto_max);
    let mut retransmits = u32::from(sample.retransmits);
    // From the first retransmission to the next run of the timer.
    let mut elapsed: u64 = (1..=retransmits).map(wait).sum();
    if effective.user_timeout != 0 {
        let left = u64::from(effective.user_timeout).saturating_sub(elapsed);
        return Some(ConnectionEnd {
            after: next.saturating_add(left),
            rule: Cause::RetransmitUserTimeout,
        });
    }
    let timeout = model_timeout(effective.retries2.min(255), rto_min, rto_max);
    let mut after = next;
    while retransmits == 0 || elapsed < timeout {
        retransmits += 1;
        elapsed += wait(retransmits);
        after = after.saturating_add(wait(retransmits));
    }
    Some(ConnectionEnd {
        after,
        rule: Cause::RetransmitTimeout,
    })
}

/// `tcp_model_timeout`: the time that this many retransmissions take, starting at the shortest timeout,
/// in the unit of the timeouts.
pub fn model_timeout(boundary: u32, rto_min: u64, rto_max: u64) -> u64 {
    let boundary = u64::from(boundary);
    let doublings = (rto_max / rto_min.max(1))
        .checked_ilog2()
        .map_or(0, u64::from);
    let linear = boundary.saturating_sub(doublings);
    let doubled = (2_u64 << boundary.min(doublings).min(62)) - 1;
    doubled
        .saturating_mul(rto_min)
        .saturating_add(linear.saturating_mul(rto_max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::arithmetic::tests::{HZ, effective};

    /// Documentation/networking/ip-sysctl: "hypothetical timeout of 924.6 seconds".
    #[test]
    fn retries() {
        let timeouts = [0, 3, 9, 10, 15].map(|retries| model_timeout(retries, 200, 120_000));
        assert_eq!(timeouts, [200, 3_000, 204_600, 324_600, 924_600]);
        assert_eq!(model_timeout(255, 1, u64::MAX), u64::MAX);
    }

    /// Timeouts of 200 ms, doubled: retransmissions at 0.2, 0.6, 1.4 and 3 s, the next at 6.2 s.
    #[test]
    fn unacknowledged_data_ends_it_by_the_user_timeout_or_the_retries() {
        let sample = TcpSample {
            rto: 16 * HZ / 5,
            backoff: 4,
            retransmits: 4,
            ..TcpSample::default()
        };
        let next = u64::from(HZ);
        let timed = retransmit_end(&effective(HZ, 9, 20 * HZ), &sample, next, HZ).unwrap();
        // 6 s after the first at the next run, 1 s from now.
        assert_eq!(timed.after, u64::from(15 * HZ));
        assert_eq!(timed.rule, Cause::RetransmitUserTimeout);
        let few = Effective {
            retries2: 5,
            ..effective(HZ, 9, 0)
        };
        let counted = retransmit_end(&few, &sample, next, HZ).unwrap();
        // Five would take 12.6 s; the sixth timeout ends after 12.4 s, the seventh after 25.2 s.
        assert_eq!(counted.after, u64::from(HZ + 64 * HZ / 10 + 128 * HZ / 10));
        assert_eq!(counted.rule, Cause::RetransmitTimeout);
    }
}
