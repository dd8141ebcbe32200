//! The retransmission timer of a SYN: the end of a connection that is not established.

use keepalive_ebpf::TcpSample;

use super::{ConnectionEnd, Effective, retransmission::model_timeout};
use crate::core::{event::Cause, sample::retransmitting};

/// The end of an attempt to connect that nothing answers, with a retransmission timer due in `next` jiffies;
/// `None` if that is unknown.
///
/// `tcp_write_timeout`: a run ends it if the SYN was retransmitted as often as TCP_SYNCNT (or
/// `tcp_syn_retries`) allows, or the user timeout has passed since the first SYN; without one, the time that
/// as many timeouts from one second on would take. `tcp_syn_linear_timeouts` (since 6.5) adds retransmissions
/// at the initial timeout. They are over once the timeout doubles; until then no more of them are assumed
/// than there were, so that the end may be later.
pub fn connect_end(
    effective: &Effective,
    sample: &TcpSample,
    next: u64,
    hz: u32,
) -> Option<ConnectionEnd> {
    let retries = effective.syn_retries?;
    if sample.rto == 0 {
        return None;
    }
    let rto_max = u64::from(effective.rto_max.max(1));
    let mut retransmits = u32::from(sample.retransmits);
    let linear = retransmits.saturating_sub(sample.backoff.into());
    let (limit, by_time) = match effective.user_timeout {
        // `tcp_timeout_init`: one second.
        0 => (
            model_timeout(retries.min(255), u64::from(hz).min(rto_max), rto_max),
            Cause::ConnectTimeout,
        ),
        timeout => (timeout.into(), Cause::ConnectUserTimeout),
    };
    let since_first = retransmitting(sample)?.saturating_mul(hz.into()) / 1000;
    let (mut after, mut timeout) = (next, u64::from(sample.rto));
    loop {
        let left = limit.saturating_sub(since_first.saturating_add(after));
        let end = |rule| Some(ConnectionEnd { after, rule });
        if retransmits >= retries.saturating_add(linear) {
            return end(Cause::ConnectTimeout);
        }
        if retransmits > 0 && left == 0 {
            return end(by_time);
        }
        retransmits += 1;
        if retransmits > linear {
            timeout = timeout.saturating_mul(2).min(rto_max);
        }
        // `tcp_clamp_rto_to_user_timeout`.
        let wait = if effective.user_timeout == 0 {
            timeout
        } else {
            timeout.min(left.max(1))
        };
        after = after.saturating_add(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::arithmetic::tests::{HZ, effective};

    const SECOND: u64 = HZ as u64;

    /// The first SYN was sent at 0, `now_s` ago.
    fn syn_sent(now_s: u64, rto_s: u32, retransmits: u8, backoff: u8) -> TcpSample {
        TcpSample {
            time: (1_000 + now_s) * 1_000_000_000,
            retrans_stamp: 1_000_000,
            rto: rto_s * HZ,
            retransmits,
            backoff,
            ..TcpSample::default()
        }
    }

    /// Documentation/networking/ip-sysctl: 127 s without linear timeouts, 131 s with four of them.
    #[test]
    fn six_retries() {
        let plain =
            connect_end(&effective(HZ, 9, 0), &syn_sent(1, 2, 1, 1), 2 * SECOND, HZ).unwrap();
        assert_eq!(plain.rule, Cause::ConnectTimeout);
        assert_eq!(1 + plain.after / SECOND, 127);
        let linear = syn_sent(5, 2, 5, 1);
        let linear = connect_end(&effective(HZ, 9, 0), &linear, 2 * SECOND, HZ).unwrap();
        assert_eq!(5 + linear.after / SECOND, 131);
    }

    #[test]
    fn the_user_timeout_or_the_count() {
        let after = |user_timeout, retries| {
            let effective = Effective {
                syn_retries: retries,
                ..effective(HZ, 9, user_timeout)
            };
            let end = connect_end(&effective, &syn_sent(1, 2, 1, 1), 2 * SECOND, HZ)?;
            Some((1 + end.after / SECOND, end.rule))
        };
        assert_eq!(
            after(20 * HZ, Some(6)),
            Some((20, Cause::ConnectUserTimeout))
        );
        assert_eq!(after(20 * HZ, Some(2)), Some((7, Cause::ConnectTimeout)));
        // At the run that is due.
        assert_eq!(after(2 * HZ, Some(6)), Some((3, Cause::ConnectUserTimeout)));
        assert_eq!(after(0, None), None);
    }
}
