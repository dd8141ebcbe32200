//! What settings mean: from the last segment of the peer to the end of the connection.
//!
//! In milliseconds. The kernel's timers run late, never early ([`wheel`]), so most results are
//! ranges.

use super::{retransmission::model_timeout, wheel};
use crate::core::{
    event::{
        Cause, ListedSocket, Plan, PlannedAction, PlannedEnd, PlannedRun, PlannedSettings, Span,
        UnexpectedEffect,
    },
    kernel::{RTO_MAX_MS, RTO_MIN_MS},
};

/// Maximum number of runs in a schedule.
const SCHEDULED: u64 = 16;

/// What an idle connection with these settings does if its peer becomes silent, on a kernel with this
/// number of ticks per second, or on any kernel.
///
/// `tcp_keepalive_timer` runs when the peer has been silent for the idle time, and then after every
/// interval. A run ends the connection if, without a user timeout, the count of probes is unanswered; with
/// one, if the silence has reached it and at least one probe is unanswered. Otherwise it probes.
pub fn plan(settings: PlannedSettings, hz: Option<u32>) -> Plan {
    let PlannedSettings {
        time_ms,
        interval_ms,
        probes,
        user_timeout_ms,
        ..
    } = settings;
    let course = Course {
        time_ms,
        interval_ms,
        // After an answered probe the timer is set for an interval, which may be longer than the idle time.
        first_latest: wheel::latest(time_ms.max(interval_ms), hz),
        next_latest: wheel::latest(interval_ms, hz),
    };
    let sent = if user_timeout_ms == 0 {
        Span::exactly(probes.into())
    } else {
        course.probes_until(user_timeout_ms)
    };
    let mut unexpected = Vec::new();
    if interval_ms > time_ms {
        unexpected.push(UnexpectedEffect::IntervalAboveTime);
    }
    if user_timeout_ms != 0 {
        unexpected.push(UnexpectedEffect::ProbesIgnored);
        if user_timeout_ms <= time_ms {
            unexpected.push(UnexpectedEffect::UserTimeoutBelowTime);
        }
        if sent.most > u8::MAX.into() {
            unexpected.push(UnexpectedEffect::ProbesWrap);
        }
    }
    Plan {
        settings,
        first_probe_ms: course.run(0),
        probes: sent,
        dead_after_ms: course.end(sent, user_timeout_ms),
        rule: if user_timeout_ms == 0 {
            Cause::KeepaliveProbes
        } else {
            Cause::KeepaliveUserTimeout
        },
        schedule: course.schedule(sent.most),
        unexpected,
        unacknowledged_data: unacknowledged(&settings, hz),
    }
}

/// The plan of a socket; `None` if its keepalive settings are unknown.
pub fn plan_of(socket: &ListedSocket, hz: Option<u32>) -> Option<Plan> {
    let keepalive = socket.keepalive.as_ref()?;
    let settings = PlannedSettings {
        time_ms: keepalive.time_ms,
        interval_ms: keepalive.interval_ms,
        probes: keepalive.probes,
        user_timeout_ms: keepalive.user_timeout_ms,
        retries2: socket.retries2?,
        rto_max_ms: socket.rto_max_ms.unwrap_or(RTO_MAX_MS),
    };
    Some(plan(settings, hz))
}

/// When the timer runs: after the idle time, then after every interval, each as late as the wheel allows.
struct Course {
    time_ms: u64,
    interval_ms: u64,
    first_latest: u64,
    next_latest: u64,
}

impl Course {
    /// The earliest and latest time of a run, counted from 0.
    fn run(&self, number: u64) -> Span {
        let after = |first: u64, next: u64| first.saturating_add(next.saturating_mul(number));
        Span {
            least: after(self.time_ms, self.interval_ms),
            most: after(self.first_latest, self.next_latest),
        }
    }

    /// How many probes are sent before a run finds that the silence has reached the user timeout.
    /// Late timers see a longer silence, and may need one probe less.
    fn probes_until(&self, user_timeout: u64) -> Span {
        let until = |first: u64, next: u64| {
            let missing = user_timeout.saturating_sub(first);
            missing.div_ceil(next.max(1)).max(1)
        };
        Span {
            least: until(self.first_latest, self.next_latest),
            most: until(self.time_ms, self.interval_ms),
        }
    }

    /// When the run after these probes ends the connection.
    fn end(&self, sent: Span, user_timeout: u64) -> Span {
        let (first, last) = (self.run(sent.least), self.run(sent.most));
        if user_timeout == 0 {
            return last;
        }
        // The previous run was before the timeout, unless it was the first, which only probes.
        let after_timeout = user_timeout.saturating_add(self.next_latest);
        Span {
            least: first.least.max(user_timeout),
            most: last.most.min(after_timeout.max(self.run(1).most)),
        }
    }

    /// What each run does, if none is late.
    fn schedule(&self, probes: u64) -> Vec<PlannedRun> {
        let runs = (0..=probes).take(SCHEDULED as usize);
        runs.map(|number| PlannedRun {
            after_ms: self.run(number).least,
            action: if number == probes {
                PlannedAction::Kill
            } else {
                PlannedAction::Probe
            },
        })
        .collect()
    }
}

/// The end of a connection whose data is not acknowledged: retransmission decides, and keepalive
/// does not run. From the first retransmission (`retransmits_timed_out`, net/ipv4/tcp_timer.c).
fn unacknowledged(settings: &PlannedSettings, hz: Option<u32>) -> PlannedEnd {
    let &PlannedSettings {
        retries2,
        user_timeout_ms,
        rto_max_ms,
        ..
    } = settings;
    if user_timeout_ms != 0 {
        return PlannedEnd {
            after_ms: Span {
                least: user_timeout_ms,
                most: wheel::latest(user_timeout_ms, hz),
            },
            rule: Cause::RetransmitUserTimeout,
        };
    }
    let least = model_timeout(retries2, RTO_MIN_MS, rto_max_ms);
    PlannedEnd {
        after_ms: Span {
            least,
            // The first real timeout after the modelled end; each runs late.
            most: wheel::latest(rto_max_ms, hz)
                .saturating_add(least.saturating_add(least.div_ceil(8))),
        },
        rule: Cause::RetransmitTimeout,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::arithmetic::{Effective, keepalive_end};

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
            rto_max_ms: RTO_MAX_MS,
        }
    }

    /// On a kernel of 250 ticks per second.
    fn planned(time_s: u64, interval_s: u64, probes: u32, user_timeout_ms: u64) -> Plan {
        plan(
            settings(time_s, interval_s, probes, user_timeout_ms),
            Some(250),
        )
    }

    /// The kernel's defaults: 2 h + 9 × 75 s.
    #[test]
    fn the_defaults() {
        let plan = planned(7200, 75, 9, 0);
        assert_eq!(plan.first_probe_ms.least, 7_200_000);
        assert_eq!((plan.probes.least, plan.probes.most), (9, 9));
        assert_eq!(plan.dead_after_ms.least, 7_875_000);
        assert_eq!(plan.rule, Cause::KeepaliveProbes);
        assert!(plan.unexpected.is_empty());
        // Documentation/networking/ip-sysctl: "hypothetical timeout of 924.6 seconds".
        assert_eq!(plan.unacknowledged_data.after_ms.least, 924_600);
    }

    /// grpc-go#6250: dead after one probe, at 30 s.
    #[test]
    fn a_user_timeout_overrides_the_count() {
        let plan = planned(15, 15, 9, 20_000);
        assert_eq!((plan.probes.least, plan.probes.most), (1, 1));
        assert_eq!(plan.dead_after_ms.least, 30_000);
        assert_eq!(plan.unexpected, [UnexpectedEffect::ProbesIgnored]);
        assert_eq!(plan.unacknowledged_data.after_ms.least, 20_000);
    }

    #[test]
    fn a_user_timeout_below_the_idle_time_waits_for_a_probe() {
        let plan = planned(60, 10, 9, 5_000);
        assert_eq!(plan.dead_after_ms.least, 70_000);
        assert!(
            plan.unexpected
                .contains(&UnexpectedEffect::UserTimeoutBelowTime)
        );
    }

    /// A late second run may see 2,010 ms of silence; never less than the timeout.
    #[test]
    fn late_timers_may_save_a_probe() {
        let plan = planned(1, 1, 9, 2_010);
        assert_eq!((plan.probes.least, plan.probes.most), (1, 2));
        assert_eq!(plan.dead_after_ms.least, 2_010);
        // But by at most a granule per run.
        let plan = planned(1, 1, 9, 2_100);
        assert_eq!((plan.probes.least, plan.probes.most), (2, 2));
    }

    /// Runs are at 1, 2 and 3 s or slightly later: equality counts as reached.
    #[test]
    fn a_user_timeout_on_a_boundary() {
        for (user_timeout, probes) in [(1_000, 1), (2_000, 1), (3_000, 2)] {
            let plan = planned(1, 1, 9, user_timeout);
            assert_eq!(plan.probes, Span::exactly(probes), "{user_timeout}");
        }
    }

    #[test]
    fn an_interval_above_the_idle_time() {
        let effect = UnexpectedEffect::IntervalAboveTime;
        assert_eq!(planned(2, 8, 2, 0).unexpected, [effect]);
        assert!(planned(8, 8, 2, 0).unexpected.is_empty());
    }

    #[test]
    fn a_schedule() {
        let runs: Vec<_> = planned(2, 1, 2, 0)
            .schedule
            .iter()
            .map(|run| (run.after_ms, run.action))
            .collect();
        let (probe, kill) = (PlannedAction::Probe, PlannedAction::Kill);
        assert_eq!(runs, [(2000, probe), (3000, probe), (4000, kill)]);
        assert_eq!(planned(1, 1, 127, 0).schedule.len(), 16);
    }

    /// `icsk_rto_max`, from 6.15 on.
    #[test]
    fn a_shorter_longest_timeout_ends_retransmission_sooner() {
        let settings = PlannedSettings {
            rto_max_ms: 1_000,
            ..settings(60, 10, 3, 0)
        };
        let end = plan(settings, Some(250)).unacknowledged_data.after_ms;
        assert_eq!(end.least, 1_400 + 13 * 1_000);
    }

    proptest! {
        /// The tracer's prediction at a probe equals the plan's.
        #[test]
        fn agrees_with_the_prediction_of_trace(
            time in 1u64..40_000, interval in 1u64..40_000, probes in 1u32..=127, user_timeout in 0u64..1 << 31,
        ) {
            let plan = planned(time, interval, probes, user_timeout);
            let effective = Effective {
                time: (time * 1000) as u32,
                interval: (interval * 1000) as u32,
                probes,
                user_timeout: user_timeout as u32,
                retries2: 15,
                rto_max: 120_000,
                orphan_retries: None,
                syn_retries: None,
            };
            let end = keepalive_end(&effective, effective.time, 1, effective.interval.into()).unwrap();
            prop_assert_eq!(time * 1000 + end.after, time * 1000 + plan.probes.most * interval * 1000);
            prop_assert_eq!(end.rule, plan.rule);
        }

        #[test]
        fn spans_are_in_order(
            time_ms: u64, interval_ms: u64, probes: u32, user_timeout_ms: u64, retries2 in 0u32..=255, rto_max_ms: u64,
        ) {
            let plan = plan(PlannedSettings { time_ms, interval_ms, probes, user_timeout_ms, retries2, rto_max_ms }, None);
            for span in [plan.first_probe_ms, plan.probes, plan.dead_after_ms, plan.unacknowledged_data.after_ms] {
                prop_assert!(span.least <= span.most, "{:?}", span);
            }
        }

        /// However late each run is, as the wheel allows, the end is in the predicted range.
        #[test]
        fn holds_for_timers_as_late_as_they_may_be(
            time in 1u64..10_000, interval in 1u64..20_000, probes in 1u32..20, user_timeout in 0u64..10_000_000,
            lateness in proptest::collection::vec(0.0..=1.0, 1..8), after_a_probe: bool,
        ) {
            let plan = planned(time, interval, probes, user_timeout);
            prop_assume!(plan.probes.most <= 255);
            let mut lateness = lateness.iter().cycle();
            let mut wait = |length: u64| {
                let late = wheel::latest(length, Some(250)) - length;
                length + (late as f64 * lateness.next().unwrap()) as u64
            };
            let first = if after_a_probe { time.max(interval) } else { time };
            let (mut silence, mut out) = (wait(first * 1000), 0);
            while if user_timeout == 0 { out < probes.into() } else { out == 0 || silence < user_timeout } {
                out += 1;
                silence += wait(interval * 1000);
            }
            prop_assert!((plan.probes.least..=plan.probes.most).contains(&out), "{out} probes, {plan:?}");
            prop_assert!(
                (plan.dead_after_ms.least..=plan.dead_after_ms.most).contains(&silence),
                "dead after {silence}, {plan:?}"
            );
        }
    }
}
