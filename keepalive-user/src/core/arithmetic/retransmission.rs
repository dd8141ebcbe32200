//! The retransmission timer: the end of a connection whose data is not acknowledged.

use keepalive_ebpf::TcpSample;

use super::{ConnectionEnd, Effective};
use crate::core::{event::Cause, kernel::rto_min, sample::retransmitting};

/// The end of a connection whose data is not acknowledged, computed with a retransmission timer due in
/// `next` jiffies; `None` if that is unknown.
///
/// `tcp_write_timeout`: from the first retransmission on, the user timeout, to which the last wait is
/// shortened (`tcp_clamp_rto_to_user_timeout`); without one the first run of the timer after the time that
/// `tcp_retries2` timeouts would take (`retransmits_timed_out`), or, if no process holds the socket, as many
/// as [`Effective::orphan_limit`].
pub fn retransmit_end(
    effective: &Effective,
    sample: &TcpSample,
    next: u64,
    hz: u32,
) -> Option<ConnectionEnd> {
    if sample.rto == 0 {
        return None;
    }
    let (by_count, by_timeout) = if sample.orphan {
        (Cause::OrphanTimeout, Cause::OrphanUserTimeout)
    } else {
        (Cause::RetransmitTimeout, Cause::RetransmitUserTimeout)
    };
    let mut elapsed = since_first(effective, sample, next, hz);
    if effective.user_timeout != 0 {
        let left = u64::from(effective.user_timeout).saturating_sub(elapsed);
        return Some(ConnectionEnd {
            after: next.saturating_add(left),
            rule: by_timeout,
        });
    }
    let rto_min = u64::from(rto_min(hz));
    let rto_max = u64::from(effective.rto_max.max(1));
    let mut timeout = u64::from(sample.rto);
    let mut is_first = sample.retransmits == 0;
    let mut after = next;
    loop {
        let retries = if sample.orphan {
            effective.orphan_limit(timeout)?
        } else {
            effective.retries2
        };
        if !is_first && elapsed >= model_timeout(retries.min(255), rto_min, rto_max) {
            return Some(ConnectionEnd {
                after,
                rule: by_count,
            });
        }
        is_first = false;
        timeout = timeout.saturating_mul(2).min(rto_max);
        elapsed = elapsed.saturating_add(timeout);
        after = after.saturating_add(timeout);
    }
}

/// From the first retransmission to the run of the timer that is due in `next` jiffies: by `retrans_stamp`,
/// else by the present timeout and the number of doublings. The latter is too long if the path became slower
/// since.
fn since_first(effective: &Effective, sample: &TcpSample, next: u64, hz: u32) -> u64 {
    if sample.retransmits == 0 {
        return 0;
    }
    if let Some(elapsed) = retransmitting(sample) {
        return (elapsed.saturating_mul(hz.into()) / 1000).saturating_add(next);
    }
    let rto_max = u64::from(effective.rto_max.max(1));
    let shortest = u64::from(sample.rto >> sample.backoff.min(31)).max(rto_min(hz).into());
    (1..=u32::from(sample.retransmits))
        .map(|number| (shortest << number.min(31)).min(rto_max))
        .sum()
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

    /// Since the first retransmission 6 s have passed, whatever the timeouts were.
    #[test]
    fn the_stamp_of_the_first_retransmission_is_exact() {
        let sample = TcpSample {
            time: 100_000_000_000,
            retrans_stamp: 94_000,
            rto: 120 * HZ,
            backoff: 2,
            retransmits: 2,
            ..TcpSample::default()
        };
        let end = retransmit_end(&effective(HZ, 9, 20 * HZ), &sample, HZ.into(), HZ).unwrap();
        assert_eq!(end.after, u64::from(14 * HZ));
    }

    /// Timeouts of 204 ms, doubled: the first run at which more than 102.2 s have passed is the ninth.
    #[test]
    fn an_orphan_has_eight_retries() {
        let sample = TcpSample {
            rto: 51,
            orphan: true,
            ..TcpSample::default()
        };
        let next = 51;
        let end = |effective: Effective| retransmit_end(&effective, &sample, next, HZ);
        let default = end(effective(HZ, 9, 0)).unwrap();
        assert_eq!(default.rule, Cause::OrphanTimeout);
        assert_eq!(default.after, 51 * 511);
        let timed = end(effective(HZ, 9, 20 * HZ)).unwrap();
        assert_eq!(timed.rule, Cause::OrphanUserTimeout);
        assert_eq!(timed.after, u64::from(20 * HZ) + next);
        // The maximum is reached at once: 0 is 0 then.
        let short = Effective {
            rto_max: 51,
            ..effective(HZ, 9, 0)
        };
        assert_eq!(end(short).unwrap().after, 2 * next);
        let unknown = Effective {
            orphan_retries: None,
            ..effective(HZ, 9, 0)
        };
        assert_eq!(end(unknown), None);
    }
}
