//! The rules, one row each. A rule is a pure function of one case: what it finds, or nothing. To
//! add one, write the function and its row; the tests want an example that fires it and one that
//! does not.

use super::middlebox::Middlebox;
use crate::{
    event::{
        Cause, DeadLetter, Keepalive, ListedSocket, Plan, Severity, Sysctls, TcpState, TimerKind,
    },
    output::words::{self, millis},
};

/// One row of the table.
pub struct Rule {
    pub name: &'static str,
    pub severity: Severity,
    /// For `--help`.
    pub summary: &'static str,
    pub check: fn(&Case<'_>) -> Option<Found>,
}

/// What a rule looks at.
pub struct Case<'a> {
    pub socket: &'a ListedSocket,
    pub plan: Option<&'a Plan>,
    /// What is between the ends, if that was said.
    pub middlebox: Option<&'a Middlebox>,
    /// Silence from which a connection is suspect, milliseconds.
    pub silent_ms: u64,
}

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub evidence: String,
    pub consequence: String,
    pub remedy: String,
}

pub const RULES: &[Rule] = &[
    Rule {
        name: "zombie_suspect",
        severity: Severity::Critical,
        summary: "silent for long, and nothing will ever notice if the peer is gone",
        check: zombie_suspect,
    },
    Rule {
        name: "late_for_middlebox",
        severity: Severity::Warning,
        summary: "what is between the ends drops the connection before the first probe",
        check: late_for_middlebox,
    },
    Rule {
        name: "suppressed",
        severity: Severity::Warning,
        summary: "data is retransmitted in vain, so keepalive does not run",
        check: suppressed,
    },
    Rule {
        name: "count_ignored",
        severity: Severity::Warning,
        summary: "TCP_USER_TIMEOUT ends the connection before TCP_KEEPCNT probes",
        check: count_ignored,
    },
    Rule {
        name: "no_keepalive",
        severity: Severity::Warning,
        summary: "idle, without keepalive",
        check: no_keepalive,
    },
    Rule {
        name: "user_timeout_late",
        severity: Severity::Info,
        summary: "TCP_USER_TIMEOUT is below the idle time, and so not kept while idle",
        check: user_timeout_late,
    },
    Rule {
        name: "interval_above_idle",
        severity: Severity::Info,
        summary: "the interval between probes is longer than the idle time before them",
        check: interval_above_idle,
    },
    Rule {
        name: "listener_without_keepalive",
        severity: Severity::Info,
        summary: "accepted connections inherit keepalive off",
        check: listener_without_keepalive,
    },
];

/// The rule about a namespace: its name, to be chosen and ignored like the others.
pub const NAMESPACE_RULE: &str = "namespace_sysctls";

const SWITCH_ON: &str = "setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1), and TCP_KEEPIDLE below what is \
                         between the ends allows";

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

    /// Nothing but keepalive would notice a dead peer.
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

    /// Lasting, idle, keepalive known to be off: for how long.
    fn unguarded(&self) -> Option<u64> {
        let off = self.keepalive().is_some_and(|keepalive| !keepalive.enabled);
        (off && self.lasts() && self.is_idle())
            .then_some(self.socket.silence_ms)
            .flatten()
    }
}

fn zombie_suspect(case: &Case<'_>) -> Option<Found> {
    let silence = case
        .unguarded()
        .filter(|&silence| silence >= case.silent_ms)?;
    Some(Found {
        evidence: format!(
            "{}, silent for {}, SO_KEEPALIVE off, nothing in flight",
            words::name(&case.socket.socket.state),
            millis(silence)
        ),
        consequence: "if the peer is gone, nothing will ever notice".to_owned(),
        remedy: SWITCH_ON.to_owned(),
    })
}

fn no_keepalive(case: &Case<'_>) -> Option<Found> {
    /// Shorter silences are ordinary.
    const IDLE_MS: u64 = 60_000;
    let silence = case
        .unguarded()
        .filter(|silence| (IDLE_MS..case.silent_ms).contains(silence))?;
    let consequence = match case.middlebox {
        Some(middlebox) => format!(
            "{} forgets it after {} of silence, and nobody is told",
            middlebox.name,
            millis(middlebox.timeout_ms)
        ),
        None => "a peer that is gone is noticed only when something is sent".to_owned(),
    };
    Some(Found {
        evidence: format!("silent for {}, SO_KEEPALIVE off", millis(silence)),
        consequence,
        remedy: SWITCH_ON.to_owned(),
    })
}

fn late_for_middlebox(case: &Case<'_>) -> Option<Found> {
    let middlebox = case.middlebox?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    if !case.lasts() || keepalive.time_ms < middlebox.timeout_ms {
        return None;
    }
    Some(Found {
        evidence: format!(
            "first probe after {} of silence, {} forgets after {}",
            millis(keepalive.time_ms),
            middlebox.name,
            millis(middlebox.timeout_ms)
        ),
        consequence: format!(
            "dropped {} before the first probe",
            millis(keepalive.time_ms - middlebox.timeout_ms)
        ),
        remedy: format!(
            "TCP_KEEPIDLE of at most {} s on the socket, or sysctl net.ipv4.tcp_keepalive_time",
            (middlebox.timeout_ms / 2000).max(1)
        ),
    })
}

fn suppressed(case: &Case<'_>) -> Option<Found> {
    /// Fewer are an ordinary loss.
    const RETRIES: u32 = 3;
    case.keepalive().filter(|keepalive| keepalive.enabled)?;
    let stuck = case
        .socket
        .timers
        .iter()
        .find(|timer| timer.kind == TimerKind::Retransmit && timer.retries >= RETRIES)?;
    let end = case.plan.map(|plan| &plan.unacknowledged_data);
    Some(Found {
        evidence: format!(
            "{} sent and not acknowledged, {} so far",
            words::bytes(case.socket.send_queue),
            words::plural(stuck.retries.into(), "retransmission")
        ),
        consequence: match end {
            Some(end) => format!(
                "keepalive does not run; dead {} after the first retransmission",
                millis(end.after_ms.least)
            ),
            None => "keepalive does not run".to_owned(),
        },
        remedy: "TCP_USER_TIMEOUT on the socket ends it sooner".to_owned(),
    })
}

fn count_ignored(case: &Case<'_>) -> Option<Found> {
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    if plan.rule != Cause::KeepaliveUserTimeout || plan.probes.most >= keepalive.probes.into() {
        return None;
    }
    Some(Found {
        evidence: format!(
            "TCP_USER_TIMEOUT {}, TCP_KEEPCNT {}",
            millis(keepalive.user_timeout_ms),
            keepalive.probes
        ),
        consequence: format!(
            "dead after {} of {} probes, {} after the peer was last heard",
            plan.probes.most,
            keepalive.probes,
            millis(plan.dead_after_ms.least)
        ),
        remedy: format!(
            "TCP_USER_TIMEOUT of {} ms (idle + interval × count) keeps the count",
            keepalive.time_ms + keepalive.interval_ms * u64::from(keepalive.probes)
        ),
    })
}

fn user_timeout_late(case: &Case<'_>) -> Option<Found> {
    let plan = case.plan?;
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    plan.dead_letters
        .contains(&DeadLetter::UserTimeoutBelowTime)
        .then(|| Found {
            evidence: format!(
                "TCP_USER_TIMEOUT {}, idle time {}",
                millis(keepalive.user_timeout_ms),
                millis(keepalive.time_ms)
            ),
            consequence: format!(
                "while idle a dead peer is noticed only after {}",
                millis(plan.dead_after_ms.least)
            ),
            remedy: "TCP_KEEPIDLE and TCP_KEEPINTVL below TCP_USER_TIMEOUT".to_owned(),
        })
}

fn interval_above_idle(case: &Case<'_>) -> Option<Found> {
    let keepalive = case.keepalive().filter(|keepalive| keepalive.enabled)?;
    let dead = case.plan?.dead_after_ms.least;
    (keepalive.interval_ms > keepalive.time_ms && case.lasts()).then(|| Found {
        evidence: format!(
            "probes every {}, the first after {}",
            millis(keepalive.interval_ms),
            millis(keepalive.time_ms)
        ),
        consequence: format!("a dead peer is noticed after {}", millis(dead)),
        remedy: "TCP_KEEPINTVL on the socket, as TCP_KEEPIDLE is set".to_owned(),
    })
}

fn listener_without_keepalive(case: &Case<'_>) -> Option<Found> {
    let off = case.keepalive().is_some_and(|keepalive| !keepalive.enabled);
    (case.socket.socket.state == TcpState::Listen && off).then(|| Found {
        evidence: "listens with SO_KEEPALIVE off".to_owned(),
        consequence: "accepted connections have none unless the application sets it on each"
            .to_owned(),
        remedy: "SO_KEEPALIVE and TCP_KEEPIDLE on the listener are inherited".to_owned(),
    })
}

/// A namespace whose defaults are not the host's: what was tuned there has no effect here.
pub fn namespace_sysctls(here: &Sysctls, host: &Sysctls) -> Option<Found> {
    let differences: Vec<String> = words::differences(here, host)
        .into_iter()
        .map(|(name, here, host)| format!("{name} is {here}, the host's is {host}"))
        .collect();
    (!differences.is_empty()).then(|| Found {
        evidence: differences.join("; "),
        consequence: "the host's sysctls have no effect in this namespace".to_owned(),
        remedy: "set them in the namespace (nsenter -n sysctl …, or the pod's securityContext)"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests;
