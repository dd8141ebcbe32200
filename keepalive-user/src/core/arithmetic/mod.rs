//! # The arithmetic of keepalive
//!
//! From the settings of a socket to its future: which timers will run, and which rule ends
//! the connection when. Pure, in the kernel's unit (jiffies); every rule names its kernel
//! function. All times are lower bounds: the timer wheel fires late, never early.

mod keepalive;
mod plan;
mod retransmission;
mod wheel;
mod window_probe;

use keepalive_ebpf::{Record, Settings};

pub use self::{
    keepalive::{earliest_probe, idle_end, keepalive_end},
    plan::{plan, plan_of},
    retransmission::retransmit_end,
    window_probe::window_end,
};

use crate::core::{event::Cause, kernel::RTO_MAX_MS};

/// The settings in force: the socket's own, else those of its namespace. Jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective {
    pub time: u32,
    pub interval: u32,
    pub probes: u32,
    /// 0 = none.
    pub user_timeout: u32,
    pub retries2: u32,
    pub rto_max: u32,
}

impl Effective {
    /// `keepalive_time_when`, `keepalive_intvl_when`, `keepalive_probes` (include/net/tcp.h).
    pub fn new(settings: &Settings, hz: u32) -> Self {
        let or = |own: u32, default: u32| if own == 0 { default } else { own };
        Self {
            time: or(settings.time, settings.sysctl_time),
            interval: or(settings.interval, settings.sysctl_interval),
            probes: or(settings.probes, settings.sysctl_probes),
            user_timeout: millis_to_jiffies(settings.user_timeout, hz),
            retries2: settings.sysctl_retries2,
            rto_max: or(settings.rto_max, millis_to_jiffies(RTO_MAX_MS as u32, hz)),
        }
    }

    pub fn of(record: &Record, hz: u32) -> Self {
        Self::new(&record.settings, hz)
    }
}

/// When a connection ends unless an answer comes, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// From now, jiffies.
    pub after: u64,
    pub rule: Cause,
}

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
    let rto_min = u64::from(hz / 5);
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
fn model_timeout(boundary: u32, rto_min: u64, rto_max: u64) -> u64 {
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

/// `tcp_probe0_when` (include/net/tcp.h), without its floor for timeouts below the minimum RTO.
fn probe0_when(rto: u32, backoff: u32, rto_max: u32) -> u64 {
    // `ilog2(TCP_RTO_MAX / TCP_RTO_MIN) + 1` bounds the shift in the kernel; the cap does here.
    let shifted = u64::from(rto.max(1)) << backoff.min(31);
    shifted.min(u64::from(rto_max.max(1)))
}

/// `msecs_to_jiffies`: rounds up.
pub fn millis_to_jiffies(millis: u32, hz: u32) -> u32 {
    let jiffies = (u64::from(millis) * u64::from(hz)).div_ceil(1000);
    u32::try_from(jiffies).unwrap_or(u32::MAX)
}

/// Milliseconds, rounded down.
pub fn jiffies_to_millis(jiffies: u64, hz: u32) -> u64 {
    (u128::from(jiffies) * 1000 / u128::from(hz.max(1)))
        .try_into()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const HZ: u32 = 250;

    pub fn effective(interval: u32, probes: u32, user_timeout: u32) -> Effective {
        Effective {
            time: 15 * HZ,
            interval,
            probes,
            user_timeout,
            retries2: 15,
            rto_max: 120 * HZ,
        }
    }

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

    #[test]
    fn conversions() {
        assert_eq!(millis_to_jiffies(1, 250), 1);
        assert_eq!(millis_to_jiffies(2500, 250), 625);
        assert_eq!(millis_to_jiffies(u32::MAX, 1000), u32::MAX);
        assert_eq!(jiffies_to_millis(625, 250), 2500);
        assert_eq!(jiffies_to_millis(u64::MAX, 1), u64::MAX);
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
