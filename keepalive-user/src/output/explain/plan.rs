//! What settings mean, in sentences.

use crate::{
    core::{
        event::{Plan, PlannedAction, PlannedSettings, Span, UnexpectedEffect},
        format::{millis, plural, seconds},
    },
    output::words::{RuleValues, rule},
};

/// Number of timer runs up to which the schedule is printed.
const SHOWN: usize = 10;

/// What keepalive does if the peer falls silent, and which settings have no effect.
pub fn if_silent(plan: &Plan) -> Vec<String> {
    let settings = &plan.settings;
    let timeout = millis(settings.user_timeout_ms);
    let mut lines = vec![format!(
        "A peer that falls silent gets its first probe after {}, then one every {}.",
        span(plan.first_probe_ms),
        millis(settings.interval_ms)
    )];
    let probes = if plan.probes.least == plan.probes.most {
        plural(plan.probes.most, "unanswered probe")
    } else {
        format!(
            "{} to {} unanswered probes",
            plan.probes.least, plan.probes.most
        )
    };
    let rule = rule(plan.rule, rule_values(settings));
    lines.push(format!(
        "It is considered dead after {}: {probes}, by {rule}.",
        span(plan.dead_after_ms)
    ));
    lines.extend(schedule(plan));
    lines.extend(plan.unexpected.iter().map(|effect| match effect {
        UnexpectedEffect::ProbesIgnored => format!(
            "TCP_KEEPCNT {} has no effect: with TCP_USER_TIMEOUT set the kernel ignores it.",
            settings.probes
        ),
        UnexpectedEffect::IntervalAboveTime => format!(
            "An idle connection whose peer answers is probed every {}, not every {}: after a probe the \
             timer is set for TCP_KEEPINTVL, even if it is answered at once.",
            millis(settings.interval_ms),
            millis(settings.time_ms)
        ),
        UnexpectedEffect::UserTimeoutBelowTime => format!(
            "TCP_USER_TIMEOUT {timeout} takes effect late: the keepalive timer first runs after \
             TCP_KEEPIDLE {}, and ends the connection one interval later.",
            millis(settings.time_ms)
        ),
        UnexpectedEffect::ProbesWrap => "The kernel counts unanswered probes in one byte \
                                   (icsk_probes_out): the count wraps at 256."
            .to_owned(),
    }));
    lines
}

fn schedule(plan: &Plan) -> Option<String> {
    let at = |action| {
        let runs = plan.schedule.iter().filter(move |run| run.action == action);
        let times: Vec<String> = runs.map(|run| seconds(run.after_ms)).collect();
        times.join(", ")
    };
    (plan.schedule.len() <= SHOWN).then(|| {
        format!(
            "If no timer is late: probes at {} s, the end at {} s.",
            at(PlannedAction::Probe),
            at(PlannedAction::Kill)
        )
    })
}

/// What ends a connection while unacknowledged data suppresses keepalive.
pub fn stuck(plan: &Plan) -> String {
    let settings = &plan.settings;
    let end = &plan.unacknowledged_data;
    let rule = rule(end.rule, rule_values(settings));
    format!(
        "If data is not acknowledged keepalive does not run: dead {} after the first retransmission, by {rule}.",
        span(end.after_ms)
    )
}

fn rule_values(settings: &PlannedSettings) -> RuleValues {
    RuleValues {
        probes: settings.probes,
        user_timeout_ms: settings.user_timeout_ms,
        retries2: Some(settings.retries2),
    }
}

/// The least, and the most if its text differs.
fn span(span: Span) -> String {
    let (least, most) = (millis(span.least), millis(span.most));
    if least == most {
        least
    } else {
        format!("{least} (at most {most})")
    }
}
