//! What settings mean: from the moment the peer was last heard to the end of the connection.
//!
//! In milliseconds. The kernel's timers run late, never early, by up to an eighth of their length
//! (`calc_wheel_index`, kernel/time/timer.c), so that most results are a range.

use crate::event::{Cause, DeadLetter, ListedSocket, Plan, PlannedEnd, PlannedSettings, Span};

/// `TCP_RTO_MIN`, milliseconds.
const RTO_MIN: u64 = 200;
/// `TCP_RTO_MAX`, milliseconds.
const RTO_MAX: u64 = 120_000;

/// What an idle connection with these settings does if its peer falls silent.
///
/// `tcp_keepalive_timer` runs when the peer has been silent for the time, and then after every
/// interval. A run ends the connection if, without a user timeout, as many probes as the count are
/// unanswered; with one, if the silence has reached it and at least one probe is. Else it probes.
pub fn plan(settings: PlannedSettings) -> Plan {
    let PlannedSettings {
        time_ms,
        interval_ms,
        probes,
        user_timeout_ms,
        retries2,
    } = settings;
    let sent = if user_timeout_ms == 0 {
        Span {
            least: probes.into(),
            most: probes.into(),
        }
    } else {
        // Timers that run late see more silence, and may need a probe less.
        Span {
            least: probes_until(user_timeout_ms, late(time_ms), late(interval_ms)),
            most: probes_until(user_timeout_ms, time_ms, interval_ms),
        }
    };
    let end_after = |probes: u64| time_ms.saturating_add(interval_ms.saturating_mul(probes));
    let mut dead_letters = Vec::new();
    if user_timeout_ms != 0 {
        dead_letters.push(DeadLetter::ProbesIgnored);
        if user_timeout_ms <= time_ms {
            dead_letters.push(DeadLetter::UserTimeoutBelowTime);
        }
        if sent.most > u8::MAX.into() {
            dead_letters.push(DeadLetter::ProbesWrap);
        }
    }
    Plan {
        settings,
        first_probe_ms: Span {
            least: time_ms,
            most: late(time_ms),
        },
        probes: sent,
        dead_after_ms: Span {
            least: end_after(sent.least),
            most: late_by_turns(end_after(sent.most), sent.most.saturating_add(1)),
        },
        rule: if user_timeout_ms == 0 {
            Cause::KeepaliveProbes
        } else {
            Cause::KeepaliveUserTimeout
        },
        dead_letters,
        unacknowledged_data: unacknowledged(retries2, user_timeout_ms),
    }
}

/// The plan of a socket; `None` if it is not known how keepalive is set on it.
pub fn plan_of(socket: &ListedSocket) -> Option<Plan> {
    let keepalive = socket.keepalive.as_ref()?;
    Some(plan(PlannedSettings {
        time_ms: keepalive.time_ms,
        interval_ms: keepalive.interval_ms,
        probes: keepalive.probes,
        user_timeout_ms: keepalive.user_timeout_ms,
        retries2: socket.retries2?,
    }))
}

/// How many probes leave before a run finds that the silence has reached the user timeout.
fn probes_until(user_timeout: u64, time: u64, interval: u64) -> u64 {
    user_timeout
        .saturating_sub(time)
        .div_ceil(interval.max(1))
        .max(1)
}

/// The latest that a timer of this length runs.
fn late(length: u64) -> u64 {
    late_by_turns(length, 1)
}

/// The latest that the last of some timers runs that follow each other, for so long in all: the
/// timer wheel rounds each up by an eighth at most, or a tick.
fn late_by_turns(length: u64, timers: u64) -> u64 {
    const TICK: u64 = 10;
    length
        .saturating_add(length.div_ceil(8))
        .saturating_add(TICK.saturating_mul(timers))
}

/// The end of a connection whose data is not acknowledged: retransmission decides, and keepalive
/// never runs. From the first retransmission (`retransmits_timed_out`, net/ipv4/tcp_timer.c).
fn unacknowledged(retries2: u32, user_timeout_ms: u64) -> PlannedEnd {
    if user_timeout_ms != 0 {
        return PlannedEnd {
            after_ms: Span {
                least: user_timeout_ms,
                most: late(user_timeout_ms),
            },
            rule: Cause::RetransmitUserTimeout,
        };
    }
    let least = model_timeout(retries2);
    PlannedEnd {
        after_ms: Span {
            least,
            // The first timeout of the real series that comes after the modelled end.
            most: late(least.saturating_add(RTO_MAX)),
        },
        rule: Cause::RetransmitTimeout,
    }
}

/// `tcp_model_timeout`: what so many retransmissions would take from the shortest timeout on.
fn model_timeout(boundary: u32) -> u64 {
    let boundary = u64::from(boundary);
    let doublings = u64::from((RTO_MAX / RTO_MIN).ilog2());
    if boundary <= doublings {
        ((2 << boundary) - 1) * RTO_MIN
    } else {
        ((2 << doublings) - 1) * RTO_MIN + (boundary - doublings) * RTO_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arithmetic::{Effective, keepalive_end};

    fn settings(
        time_s: u64,
        interval_s: u64,
        probes: u32,
        user_timeout_ms: u64,
    ) -> PlannedSettings {
        PlannedSettings {
            time_ms: time_s * 1000,
            interval_ms: interval_s * 1000,
            probes,
            user_timeout_ms,
            retries2: 15,
        }
    }

    /// The kernel's defaults: 2 h + 9 × 75 s.
    #[test]
    fn the_defaults() {
        let plan = plan(settings(7200, 75, 9, 0));
        assert_eq!(plan.first_probe_ms.least, 7_200_000);
        assert_eq!((plan.probes.least, plan.probes.most), (9, 9));
        assert_eq!(plan.dead_after_ms.least, 7_875_000);
        assert_eq!(plan.rule, Cause::KeepaliveProbes);
        assert!(plan.dead_letters.is_empty());
        // Documentation/networking/ip-sysctl: "hypothetical timeout of 924.6 seconds".
        assert_eq!(plan.unacknowledged_data.after_ms.least, 924_600);
    }

    /// grpc-go#6250: dead after one probe, at 30 s.
    #[test]
    fn a_user_timeout_makes_the_count_a_dead_letter() {
        let plan = plan(settings(15, 15, 9, 20_000));
        assert_eq!((plan.probes.least, plan.probes.most), (1, 1));
        assert_eq!(plan.dead_after_ms.least, 30_000);
        assert_eq!(plan.dead_letters, [DeadLetter::ProbesIgnored]);
        assert_eq!(plan.unacknowledged_data.after_ms.least, 20_000);
    }

    #[test]
    fn a_user_timeout_below_the_time_waits_for_a_probe_all_the_same() {
        let plan = plan(settings(60, 10, 9, 5_000));
        assert_eq!(plan.dead_after_ms.least, 70_000);
        assert!(
            plan.dead_letters
                .contains(&DeadLetter::UserTimeoutBelowTime)
        );
    }

    #[test]
    fn late_timers_may_save_a_probe() {
        // At the second run the silence is 2,000 ms exactly, or more.
        let plan = plan(settings(1, 1, 9, 2_100));
        assert_eq!((plan.probes.least, plan.probes.most), (1, 2));
        assert_eq!(plan.dead_after_ms.least, 2_000);
    }

    #[test]
    fn few_retries() {
        assert_eq!(model_timeout(0), 200);
        assert_eq!(model_timeout(3), 3_000);
        assert_eq!(model_timeout(9), 204_600);
        assert_eq!(model_timeout(10), 324_600);
    }

    proptest! {
        /// The tracer's prediction, made at a probe, is the plan's.
        #[test]
        fn agrees_with_what_trace_says(
            time in 1u64..40_000, interval in 1u64..40_000, probes in 1u32..=127, user_timeout in 0u64..1 << 31,
        ) {
            let plan = plan(settings(time, interval, probes, user_timeout));
            let effective = Effective {
                time: (time * 1000) as u32,
                interval: (interval * 1000) as u32,
                probes,
                user_timeout: user_timeout as u32,
                retries2: 15,
                rto_max: 120_000,
            };
            let end = keepalive_end(&effective, effective.time, 1, effective.interval.into()).unwrap();
            prop_assert_eq!(time * 1000 + end.after, time * 1000 + plan.probes.most * interval * 1000);
            prop_assert_eq!(end.rule, plan.rule);
        }

        #[test]
        fn spans_are_in_order(
            time_ms: u64, interval_ms: u64, probes: u32, user_timeout_ms: u64, retries2 in 0u32..=255,
        ) {
            let plan = plan(PlannedSettings { time_ms, interval_ms, probes, user_timeout_ms, retries2 });
            for span in [plan.first_probe_ms, plan.probes, plan.dead_after_ms, plan.unacknowledged_data.after_ms] {
                prop_assert!(span.least <= span.most, "{:?}", span);
            }
        }
    }
}
