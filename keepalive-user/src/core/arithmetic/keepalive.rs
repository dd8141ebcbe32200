//! The keepalive timer: the next probe, and the end of an idle connection.

use keepalive_ebpf::TcpSample;

use super::{ConnectionEnd, Effective};
use crate::core::{
    event::{Blocker, Cause},
    sample::{silence, unsent},
};

/// How long until a keepalive probe can be sent at the earliest, jiffies from now, if nothing more
/// is received; else what blocks it.
///
/// `tcp_keepalive_timer` runs at its deadline, whatever was received since. With data in flight or
/// unsent it waits another full time. Otherwise, if the silence has reached the idle time, it probes or
/// ends the connection; if not, it waits for the rest.
pub fn earliest_probe(effective: &Effective, sample: &TcpSample) -> Result<u64, Blocker> {
    if sample.packets_out > 0 {
        return Err(Blocker::DataInFlight);
    }
    if unsent(sample) > 0 {
        return Err(Blocker::DataUnsent);
    }
    let run = idle_run(effective, sample);
    match idle_end(effective, sample) {
        Some(end) if end.after == run => Err(Blocker::ConnectionEnds),
        _ => Ok(run),
    }
}

/// The end of a connection with nothing in flight, from now, if nothing more is received.
pub fn idle_end(effective: &Effective, sample: &TcpSample) -> Option<ConnectionEnd> {
    let silence = silence(sample).unwrap_or_default();
    let run = idle_run(effective, sample);
    keepalive_end(effective, silence, sample.probes_out.into(), run)
}

/// Until the first run of the timer that finds the connection idle for the full idle time.
fn idle_run(effective: &Effective, sample: &TcpSample) -> u64 {
    let timer = sample.expires.saturating_sub(sample.jiffies);
    let rest = silence(sample).map_or(0, |silence| effective.time.saturating_sub(silence));
    timer.max(rest.into())
}

/// The end of an idle connection whose peer stays silent, computed at a run of the keepalive timer
/// that left `probes_out` probes unanswered and the timer due in `next` jiffies.
///
/// `tcp_keepalive_timer`: a run ends the connection if, with a user timeout, the silence has
/// reached it and a probe is outstanding; without one, if `probes` are outstanding. Otherwise it sends
/// the next probe and runs again after the interval.
pub fn keepalive_end(
    effective: &Effective,
    silence: u32,
    probes_out: u32,
    next: u64,
) -> Option<ConnectionEnd> {
    let interval = u64::from(effective.interval);
    if interval == 0 {
        return None;
    }
    if effective.user_timeout != 0 {
        let left = u64::from(effective.user_timeout.saturating_sub(silence));
        // A run without an outstanding probe only sends the first one.
        let earliest = if probes_out > 0 {
            next
        } else {
            next.saturating_add(interval)
        };
        let runs = left.saturating_sub(earliest).div_ceil(interval);
        return Some(ConnectionEnd {
            after: earliest.saturating_add(runs.saturating_mul(interval)),
            rule: Cause::KeepaliveUserTimeout,
        });
    }
    let left = u64::from(effective.probes.saturating_sub(probes_out));
    Some(ConnectionEnd {
        after: next.saturating_add(left.saturating_mul(interval)),
        rule: Cause::KeepaliveProbes,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::arithmetic::tests::{HZ, effective};

    /// grpc-go#6250, measured: idle = interval = 15 s, count 9, user timeout 20 s: dead after one probe, at 30 s.
    #[test]
    fn a_user_timeout_overrides_the_count() {
        let end = keepalive_end(
            &effective(15 * HZ, 9, 20 * HZ),
            15 * HZ,
            1,
            u64::from(15 * HZ),
        )
        .unwrap();
        assert_eq!(
            end,
            ConnectionEnd {
                after: u64::from(15 * HZ),
                rule: Cause::KeepaliveUserTimeout
            }
        );
    }

    /// mscdex/node-oscar#3, measured: 7200 + 9 × 75 s.
    #[test]
    fn the_count_ends_it_an_interval_after_the_last_probe() {
        let end =
            keepalive_end(&effective(75 * HZ, 9, 0), 7200 * HZ, 1, u64::from(75 * HZ)).unwrap();
        assert_eq!(
            end,
            ConnectionEnd {
                after: u64::from(9 * 75 * HZ),
                rule: Cause::KeepaliveProbes
            }
        );
    }

    /// Three of three probes are outstanding: the next run ends it. With two the next run probes.
    #[test]
    fn the_run_that_ends_it_sends_no_probe() {
        let with = |probes_out, user_timeout| {
            let sample = TcpSample {
                jiffies: 100_000,
                expires: 100_000 + u64::from(HZ),
                rcv_tstamp: 100_000 - 17 * HZ,
                probes_out,
                ..TcpSample::default()
            };
            let effective = effective(10 * HZ, 3, user_timeout);
            (
                earliest_probe(&effective, &sample),
                idle_end(&effective, &sample).unwrap().after,
            )
        };
        let run = u64::from(HZ);
        assert_eq!(with(2, 0), (Ok(run), 11 * run));
        assert_eq!(with(3, 0), (Err(Blocker::ConnectionEnds), run));
        assert_eq!(with(3, 18 * HZ), (Err(Blocker::ConnectionEnds), run));
        assert_eq!(with(3, 19 * HZ), (Ok(run), 11 * run));
        assert_eq!(with(0, 18 * HZ), (Ok(run), 11 * run));
    }

    /// The kernel's loop, executed literally, as the oracle for the closed form.
    fn simulate(effective: &Effective, silence: u32, mut probes_out: u32, next: u64) -> u64 {
        let mut after = next;
        loop {
            let elapsed = u64::from(silence) + after;
            let over = if effective.user_timeout != 0 {
                elapsed >= u64::from(effective.user_timeout) && probes_out > 0
            } else {
                probes_out >= effective.probes
            };
            if over {
                return after;
            }
            probes_out += 1;
            after += u64::from(effective.interval);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_kernels_loop(
            interval in 1u32..10_000, probes in 1u32..=127, user_timeout in 0u32..100_000,
            silence in 0u32..100_000, probes_out in 0u32..=127, next in 0u64..10_000,
        ) {
            let effective = effective(interval, probes, user_timeout);
            let end = keepalive_end(&effective, silence, probes_out, next).unwrap();
            prop_assert_eq!(end.after, simulate(&effective, silence, probes_out, next));
        }
    }
}
