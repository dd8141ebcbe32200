//! Settings that contradict each other or have no effect, and those that would not.

use super::{
    Case, Violation,
    remedy::{Advice, gap_ms},
};
use crate::core::{
    event::{Cause, Keepalive, Plan, Span},
    format::{millis, plural},
    kernel::{KEEPALIVE_MAX_S, PROBES_MAX},
};

pub fn count_ignored(case: &Case<'_>) -> Option<Violation> {
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    if !miscounts(plan) {
        return None;
    }
    let count = keepalive.probes;
    let ends = if plan.probes.most > count.into() {
        "only after"
    } else {
        "already after"
    };
    Some(Violation {
        evidence: format!(
            "TCP_USER_TIMEOUT {}, TCP_KEEPCNT {count}",
            millis(keepalive.user_timeout_ms)
        ),
        consequence: format!(
            "TCP_KEEPCNT has no effect: dead {ends} {}, {} after the last segment from the peer",
            match plan.probes {
                Span { least, most } if least == most => plural(most, "probe"),
                Span { least, most } => format!("{least} to {most} probes"),
            },
            millis(plan.dead_after_ms.least)
        ),
        remedy: change(case, keepalive, plan),
    })
}

pub fn user_timeout_late(case: &Case<'_>) -> Option<Violation> {
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    is_late(plan).then(|| Violation {
        evidence: format!(
            "TCP_USER_TIMEOUT {}, idle {}, interval {}",
            millis(keepalive.user_timeout_ms),
            millis(keepalive.time_ms),
            millis(keepalive.interval_ms)
        ),
        consequence: format!(
            "while idle a dead peer is detected only after {}",
            millis(plan.dead_after_ms.least)
        ),
        remedy: change(case, keepalive, plan),
    })
}

pub fn interval_above_idle(case: &Case<'_>) -> Option<Violation> {
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    (keepalive.interval_ms > keepalive.time_ms && case.lasts()).then(|| Violation {
        evidence: format!(
            "interval {}, idle {}",
            millis(keepalive.interval_ms),
            millis(keepalive.time_ms)
        ),
        consequence: format!(
            "an idle connection whose peer answers is probed every {}, not every {}; a dead peer is \
             detected after {} to {}",
            millis(keepalive.interval_ms),
            millis(keepalive.time_ms),
            millis(plan.dead_after_ms.least),
            millis(plan.dead_after_ms.most)
        ),
        remedy: change(case, keepalive, plan),
    })
}

/// How much longer than the user timeout an idle connection may last, as a fraction: smaller excesses come from
/// late timers.
const MARGIN: u64 = 8;

/// Whether an idle connection lasts longer than the user timeout.
fn is_late(plan: &Plan) -> bool {
    let timeout = plan.settings.user_timeout_ms;
    timeout != 0 && plan.dead_after_ms.least > timeout + timeout / MARGIN
}

/// Whether the user timeout ends an idle connection after another number of probes than TCP_KEEPCNT, however
/// late the timers run.
fn miscounts(plan: &Plan) -> bool {
    let Span { least, most } = plan.probes;
    plan.rule == Cause::KeepaliveUserTimeout
        && !(least..=most).contains(&plan.settings.probes.into())
}

/// The change of settings after which no rule about settings fires. One for all of these rules: what each would
/// change alone could break another one.
pub fn change(case: &Case<'_>, keepalive: &Keepalive, plan: &Plan) -> String {
    let now = Wanted {
        idle: keepalive.time_ms.div_ceil(1000).max(1),
        interval: keepalive.interval_ms.div_ceil(1000).max(1),
        count: keepalive.probes.into(),
        user_timeout_ms: keepalive.user_timeout_ms,
    };
    let then = now.settled(case, plan);
    let options = case.patient().set(keepalive, then.advice());
    let timeout = (now.user_timeout_ms != then.user_timeout_ms).then(|| then.user_timeout());
    options
        .into_iter()
        .chain(timeout)
        .collect::<Vec<String>>()
        .join("; ")
}

/// Switches keepalive on, with values that fit the middlebox and the user timeout that is set.
pub fn switch_on(case: &Case<'_>) -> String {
    let advice = case.advice();
    let timeout = case.keepalive().map_or(0, |it| it.user_timeout_ms);
    if timeout == 0 {
        return case.patient().switch_on(advice);
    }
    let wanted = Wanted {
        idle: advice.idle,
        interval: advice.interval,
        count: advice.count,
        user_timeout_ms: timeout,
    };
    let wanted = wanted.fitted(case);
    let switched = case.patient().switch_on(wanted.advice());
    if wanted.user_timeout_ms == timeout {
        switched
    } else {
        format!("{switched}; {}", wanted.user_timeout())
    }
}

/// Settings: seconds, seconds, count, and milliseconds (0 = none).
#[derive(Clone, Copy)]
struct Wanted {
    idle: u64,
    interval: u64,
    count: u64,
    user_timeout_ms: u64,
}

impl Wanted {
    fn advice(self) -> Advice {
        Advice {
            idle: self.idle,
            interval: self.interval,
            count: self.count,
        }
    }

    /// These settings with as few changes as possible.
    fn settled(self, case: &Case<'_>, plan: &Plan) -> Self {
        if is_late(plan) {
            return self.fitted(case);
        }
        let mut wanted = self;
        if let Some(middlebox) = case.middlebox
            && case.leaves_the_host()
            && let Some(advice) = middlebox.advice()
            && plan.first_probe_ms.most >= middlebox.timeout_ms
            // Not if the interval alone makes it late.
            && gap_ms(self.idle * 1000, self.interval.min(self.idle) * 1000) >= middlebox.timeout_ms
        {
            wanted.idle = wanted.idle.min(advice.idle);
        }
        if wanted.interval > wanted.idle {
            wanted.interval = (wanted.idle / 6).max(1);
        }
        wanted.counted()
    }

    /// Settings with which an idle connection lasts as long as the user timeout: at most half of it idle, then
    /// probes a tenth apart.
    fn fitted(self, case: &Case<'_>) -> Self {
        let longest = u64::from(KEEPALIVE_MAX_S);
        let total = self.user_timeout_ms.div_ceil(1000).max(2);
        let idle = (total / 2).min(case.advice().idle).clamp(1, longest);
        let interval = (total / 10).clamp(1, idle);
        let count = (total.saturating_sub(idle)).div_ceil(interval);
        let fitted = Self {
            idle,
            interval,
            count: count.clamp(1, PROBES_MAX.into()),
            user_timeout_ms: self.user_timeout_ms,
        };
        fitted.counted()
    }

    /// With a user timeout that ends an idle connection after the count of probes, unless it does already.
    fn counted(mut self) -> Self {
        let end = |probes| (self.idle + self.interval * probes) * 1000;
        let timeout = self.user_timeout_ms;
        let probes = timeout
            .saturating_sub(self.idle * 1000)
            .div_ceil(self.interval * 1000)
            .max(1);
        if timeout != 0 && (probes != self.count || end(probes) > timeout + timeout / MARGIN) {
            // None, if it would be too long.
            self.user_timeout_ms = Some(end(self.count))
                .filter(|&end| end <= USER_TIMEOUT_MAX_MS)
                .unwrap_or_default();
        }
        self
    }

    fn user_timeout(self) -> String {
        let timeout = self.user_timeout_ms;
        let why = if timeout == 0 {
            format!(": idle + interval × count is above its maximum, {USER_TIMEOUT_MAX_MS} ms")
        } else if (self.idle + self.interval * self.count) * 1000 == timeout {
            " (idle + interval × count)".to_owned()
        } else {
            String::new()
        };
        format!("setsockopt TCP_USER_TIMEOUT = {timeout}{why}")
    }
}

/// `TCP_USER_TIMEOUT` is an int (`do_tcp_setsockopt`, net/ipv4/tcp.c), milliseconds.
const USER_TIMEOUT_MAX_MS: u64 = 2_147_483_647;
