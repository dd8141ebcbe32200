//! # The rules of the audit
//!
//! One row per rule. A rule is a pure function of one case that returns a violation, or nothing. To add
//! one, write the function and its row; the tests need an example that fires it and one that does not.

mod judge;
mod middlebox;
mod remedy;
mod surroundings;

pub use self::{
    judge::{AuditScope, Ignore, Judge},
    middlebox::{Middlebox, Named, Tracking, help as middlebox_help},
    surroundings::Surroundings,
};
use self::{
    middlebox::Expiry,
    remedy::{Advice, Patient},
};
use super::{
    arithmetic,
    event::{
        Cause, Keepalive, ListedSocket, Plan, PlannedSettings, Severity, Span, Sysctls, TcpState,
        TimerKind,
    },
    format::{millis, name, plural},
    kernel::KEEPALIVE_MAX_S,
};

/// One row of the table.
pub struct AuditRule {
    pub name: &'static str,
    pub severity: Severity,
    /// For `--help`.
    pub summary: &'static str,
    pub check: fn(&Case<'_>) -> Option<Violation>,
}

/// The input of a rule.
pub struct Case<'a> {
    pub socket: &'a ListedSocket,
    pub plan: Option<&'a Plan>,
    /// The middlebox between the ends, if one was given.
    pub middlebox: Option<&'a Middlebox>,
    /// Silence from which a connection without keepalive is a finding, milliseconds.
    pub silent_ms: u64,
    pub around: &'a Surroundings,
}

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub evidence: String,
    pub consequence: String,
    pub remedy: String,
}

pub const RULES: &[AuditRule] = &[
    AuditRule {
        name: "zombie_suspect",
        severity: Severity::Critical,
        summary: "silent for long, and a dead peer is never detected",
        check: zombie_suspect,
    },
    AuditRule {
        name: "late_for_middlebox",
        severity: Severity::Warning,
        summary: "a middlebox drops the connection before a probe, or ignores probes",
        check: late_for_middlebox,
    },
    AuditRule {
        name: "suppressed",
        severity: Severity::Warning,
        summary: "data is retransmitted without an answer, so keepalive does not run",
        check: suppressed,
    },
    AuditRule {
        name: "count_ignored",
        severity: Severity::Warning,
        summary: "TCP_USER_TIMEOUT ends the connection, not TCP_KEEPCNT probes",
        check: count_ignored,
    },
    AuditRule {
        name: "no_keepalive",
        severity: Severity::Warning,
        summary: "idle, without keepalive",
        check: no_keepalive,
    },
    AuditRule {
        name: "user_timeout_late",
        severity: Severity::Info,
        summary: "an idle connection with a dead peer lasts longer than TCP_USER_TIMEOUT",
        check: user_timeout_late,
    },
    AuditRule {
        name: "interval_above_idle",
        severity: Severity::Info,
        summary: "the interval between probes is longer than the idle time before them",
        check: interval_above_idle,
    },
    AuditRule {
        name: "listener_without_keepalive",
        severity: Severity::Info,
        summary: "accepted connections inherit keepalive off",
        check: listener_without_keepalive,
    },
];

/// The rule about a namespace: it can be selected and ignored by name, like the rules above.
pub const NAMESPACE_RULE: &str = "namespace_sysctls";

/// The names of all rules, with their severities and summaries.
pub fn summaries() -> impl Iterator<Item = (&'static str, Severity, &'static str)> {
    let rules = RULES
        .iter()
        .map(|rule| (rule.name, rule.severity, rule.summary));
    let summary = "a namespace's defaults are not the host's";
    rules.chain([(NAMESPACE_RULE, Severity::Info, summary)])
}

pub fn rule_names() -> impl Iterator<Item = &'static str> {
    summaries().map(|(name, ..)| name)
}

impl Case<'_> {
    fn keepalive(&self) -> Option<&Keepalive> {
        self.socket.keepalive.as_ref()
    }

    /// Connected, and in a state that can last.
    fn lasts(&self) -> bool {
        matches!(
            self.socket.socket.state,
            TcpState::Established | TcpState::CloseWait | TcpState::FinWait2
        ) && !self.socket.orphan
    }

    /// Whether the peer is on another host: on the same host the kernel closes its side if it exits.
    fn leaves_the_host(&self) -> bool {
        let socket = &self.socket.socket;
        !socket.peer.address.is_loopback() && socket.peer.address != socket.local.address
    }

    /// Only keepalive would detect a dead peer.
    fn is_idle(&self) -> bool {
        let active = [
            TimerKind::Retransmit,
            TimerKind::LossProbe,
            TimerKind::Reorder,
            TimerKind::WindowProbe,
        ];
        let timers = &self.socket.timers;
        !timers.iter().any(|timer| active.contains(&timer.kind))
    }

    fn advice(&self) -> Advice {
        self.middlebox
            .and_then(Middlebox::advice)
            .unwrap_or(Advice::ORDINARY)
    }

    fn patient(&self) -> Patient<'_> {
        Patient {
            socket: self.socket,
            around: self.around,
        }
    }

    fn switch_on(&self) -> String {
        self.patient().switch_on(self.advice())
    }

    fn is_off(&self) -> bool {
        self.keepalive().is_some_and(|keepalive| !keepalive.enabled)
    }

    /// How long a lasting, idle connection with keepalive known to be off has been silent.
    fn unguarded(&self) -> Option<u64> {
        (self.is_off() && self.lasts() && self.is_idle() && self.leaves_the_host())
            .then_some(self.socket.silence_ms)
            .flatten()
    }
}

fn zombie_suspect(case: &Case<'_>) -> Option<Violation> {
    let silence = case
        .unguarded()
        .filter(|&silence| silence >= case.silent_ms)?;
    Some(Violation {
        evidence: format!(
            "{}, silent for {}, SO_KEEPALIVE off, nothing in flight",
            name(case.socket.socket.state),
            millis(silence)
        ),
        consequence: "if the peer is dead, that is never detected".to_owned(),
        remedy: case.switch_on(),
    })
}

fn no_keepalive(case: &Case<'_>) -> Option<Violation> {
    /// Shorter silences are normal.
    const IDLE_MS: u64 = 60_000;
    // With a middlebox `late_for_middlebox` gives more detail.
    let silence = case
        .unguarded()
        .filter(|silence| (IDLE_MS..case.silent_ms).contains(silence))
        .filter(|_| case.middlebox.is_none_or(Middlebox::is_proxy))?;
    Some(Violation {
        evidence: format!("silent for {}, SO_KEEPALIVE off", millis(silence)),
        consequence: "a dead peer is detected only when data is sent".to_owned(),
        remedy: case.switch_on(),
    })
}

fn late_for_middlebox(case: &Case<'_>) -> Option<Violation> {
    let middlebox = case.middlebox?;
    let keepalive = case.keepalive()?;
    if !case.lasts() || !case.leaves_the_host() {
        return None;
    }
    if let Expiry::Proxy { setting } = middlebox.expiry {
        return Some(middlebox::behind_a_proxy(middlebox, setting, case.socket));
    }
    let timeout = middlebox.timeout_ms;
    if !keepalive.enabled {
        return Some(Violation {
            evidence: format!("SO_KEEPALIVE off, {}", middlebox.forgets()),
            consequence: format!(
                "dropped after {} of silence, {}",
                millis(timeout),
                middlebox.then()
            ),
            remedy: middlebox.remedy(|advice| case.patient().switch_on(advice)),
        });
    }
    let gap = case.plan?.first_probe_ms;
    (gap.most >= timeout).then(|| middlebox::late(case, middlebox, keepalive, gap))
}

fn suppressed(case: &Case<'_>) -> Option<Violation> {
    /// Fewer retransmissions are normal packet loss.
    const RETRIES: u32 = 3;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    let stuck = case
        .socket
        .timers
        .iter()
        .find(|timer| timer.kind == TimerKind::Retransmit && timer.retries >= RETRIES)?;
    let timeout = keepalive.user_timeout_ms;
    let (end, remedy) = if case.socket.orphan {
        (
            "ends by tcp_orphan_retries (0 counts as 8)".to_owned(),
            format!(
                "sysctl net.ipv4.tcp_orphan_retries in network namespace {}",
                case.socket.socket.netns
            ),
        )
    } else if timeout > 0 {
        let left = case.socket.death.map_or(timeout, |death| death.in_ms);
        (
            format!("ends in {}, by TCP_USER_TIMEOUT", millis(left)),
            format!("setsockopt TCP_USER_TIMEOUT below {timeout} (ms) ends it sooner"),
        )
    } else {
        let left = case.socket.death.map(|death| millis(death.in_ms));
        (
            format!(
                "ends in about {}, by tcp_retries2 {}",
                left.unwrap_or_else(|| "?".to_owned()),
                case.socket.retries2.unwrap_or_default()
            ),
            "setsockopt TCP_USER_TIMEOUT = 60000 ends it 60 s after the first retransmission"
                .to_owned(),
        )
    };
    Some(Violation {
        evidence: format!(
            "{} sent and not acknowledged, {} so far",
            plural(case.socket.send_queue.into(), "byte"),
            plural(stuck.retries.into(), "retransmission")
        ),
        consequence: format!("keepalive does not run; the connection {end}"),
        remedy,
    })
}

fn count_ignored(case: &Case<'_>) -> Option<Violation> {
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    let count = u64::from(keepalive.probes);
    let is_kept = (plan.probes.least, plan.probes.most) == (count, count);
    if plan.rule != Cause::KeepaliveUserTimeout || is_kept {
        return None;
    }
    let ends = if plan.probes.most > count {
        "only after"
    } else {
        "already after"
    };
    let remedy = keep_the_count(plan, keepalive);
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
        remedy,
    })
}

/// The timeout at which the count alone would end the connection, or none.
fn keep_the_count(plan: &Plan, keepalive: &Keepalive) -> String {
    let count = u64::from(keepalive.probes);
    let timeout = keepalive.time_ms + keepalive.interval_ms * count;
    if timeout > USER_TIMEOUT_MAX_MS {
        return format!(
            "setsockopt TCP_USER_TIMEOUT = 0: idle + interval × count is above its maximum, \
             {USER_TIMEOUT_MAX_MS} ms"
        );
    }
    let kept = arithmetic::plan(
        PlannedSettings {
            user_timeout_ms: timeout,
            ..plan.settings
        },
        None,
    );
    if kept.probes == Span::exactly(count) {
        format!("setsockopt TCP_USER_TIMEOUT = {timeout} (idle + interval × count) keeps the count")
    } else {
        format!(
            "setsockopt TCP_USER_TIMEOUT = 0: timers this long run too late for one that keeps the \
             count ({timeout} needs {} to {} probes)",
            kept.probes.least, kept.probes.most
        )
    }
}

/// `TCP_USER_TIMEOUT` is an int (`do_tcp_setsockopt`, net/ipv4/tcp.c), milliseconds.
const USER_TIMEOUT_MAX_MS: u64 = 2_147_483_647;

fn user_timeout_late(case: &Case<'_>) -> Option<Violation> {
    /// As a fraction of the timeout: smaller excesses come from late timers.
    const MARGIN: u64 = 8;
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    let timeout = keepalive.user_timeout_ms;
    let dead = plan.dead_after_ms.least;
    if timeout == 0 || dead <= timeout + timeout / MARGIN {
        return None;
    }
    // The first run probes, the second can end the connection.
    let most = u64::from(KEEPALIVE_MAX_S);
    let (idle, interval) = ((timeout * 2 / 3000).min(most), timeout / 3000);
    Some(Violation {
        evidence: format!(
            "TCP_USER_TIMEOUT {}, idle {}, interval {}",
            millis(timeout),
            millis(keepalive.time_ms),
            millis(keepalive.interval_ms)
        ),
        consequence: format!(
            "while idle a dead peer is detected only after {}",
            millis(dead)
        ),
        remedy: if interval == 0 {
            "setsockopt TCP_USER_TIMEOUT of at least 3000: keepalive counts in seconds".to_owned()
        } else {
            let remedy = case.patient().retime(keepalive, Some(idle), Some(interval));
            format!("{remedy}: together at most TCP_USER_TIMEOUT")
        },
    })
}

fn interval_above_idle(case: &Case<'_>) -> Option<Violation> {
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    let dead = case.plan?.dead_after_ms.least;
    (keepalive.interval_ms > keepalive.time_ms && case.lasts()).then(|| Violation {
        evidence: format!(
            "probes every {}, the first after {}",
            millis(keepalive.interval_ms),
            millis(keepalive.time_ms)
        ),
        consequence: format!("a dead peer is detected after {}", millis(dead)),
        remedy: case
            .patient()
            .retime(keepalive, None, Some((keepalive.time_ms / 6000).max(1))),
    })
}

fn listener_without_keepalive(case: &Case<'_>) -> Option<Violation> {
    if case.socket.socket.state != TcpState::Listen || !case.is_off() {
        return None;
    }
    let (accepted, kept) = case.around.connections(case.socket);
    let setting = case.patient().accepted_setting();
    let inherits = setting.is_none_or(|(_, setting)| setting.on_listener);
    // A program that sets it on each connection shows there what it does.
    if kept > 0 || (accepted == 0 && !inherits) {
        return None;
    }
    let remedy = case.switch_on();
    Some(Violation {
        evidence: "listens with SO_KEEPALIVE off".to_owned(),
        consequence: "accepted connections have none unless the application sets it on each"
            .to_owned(),
        remedy: if setting.is_none() {
            format!("on the listener, to be inherited: {remedy}")
        } else {
            remedy
        },
    })
}

/// A namespace whose defaults differ from the host's: the host's tuning has no effect there.
pub fn namespace_sysctls(here: &Sysctls, host: &Sysctls) -> Option<Violation> {
    let differences = here.differences(host);
    let settings: Vec<String> = differences
        .iter()
        .map(|(sysctl, _, host)| format!("net.ipv4.{}={host}", name(*sysctl)))
        .collect();
    let differences: Vec<String> = differences
        .into_iter()
        .map(|(sysctl, here, host)| format!("{} is {here}, the host's is {host}", name(sysctl)))
        .collect();
    (!differences.is_empty()).then(|| Violation {
        evidence: differences.join("; "),
        consequence: "the host's sysctls have no effect in this namespace".to_owned(),
        remedy: format!(
            "in the namespace (nsenter --net=… sysctl -w {}), or by the pod's securityContext.sysctls; {}",
            settings.join(" "),
            remedy::NEW_ONLY
        ),
    })
}

#[cfg(test)]
mod tests;
