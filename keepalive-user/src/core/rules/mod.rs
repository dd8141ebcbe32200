//! # The rules of the audit
//!
//! One row per rule. A rule is a pure function of one case that returns a violation, or nothing. To add
//! one, write the function and its row; the tests need an example that fires it and one that does not.

mod judge;
mod middlebox;
mod remedy;
mod settings;
mod silence;
mod stuck;
mod surroundings;

pub use self::{
    judge::{AuditScope, Ignore, Judge},
    middlebox::{Middlebox, Named, Tracking, help as middlebox_help},
    surroundings::Surroundings,
};
use self::{
    remedy::{Advice, Patient},
    settings::{count_ignored, interval_above_idle, user_timeout_late},
    silence::{late_for_middlebox, no_keepalive, only_peer_probes, zombie_suspect},
    stuck::{close_wait, not_accepted, not_read, suppressed},
};
use super::{
    event::{Keepalive, ListedSocket, PeerPlace, Plan, Severity, Sysctls, TcpState, TimerKind},
    format::name,
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
        summary: "data is retransmitted without an answer; keepalive does not run",
        check: suppressed,
    },
    AuditRule {
        name: "close_wait",
        severity: Severity::Warning,
        summary: "the peer has closed, and the program does not",
        check: close_wait,
    },
    AuditRule {
        name: "not_accepted",
        severity: Severity::Warning,
        summary: "established, and not accepted by the program that listens",
        check: not_accepted,
    },
    AuditRule {
        name: "not_read",
        severity: Severity::Warning,
        summary: "data waits because a program on one side does not read",
        check: not_read,
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
        name: "only_peer_probes",
        severity: Severity::Info,
        summary: "the peer probes this end, which would not detect a dead peer",
        check: only_peer_probes,
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
pub const NAMESPACE_SEVERITY: Severity = Severity::Info;

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

    /// Connected, held by a process, and in a state that can last. CLOSE_WAIT is that of a program that does
    /// not close.
    fn lasts(&self) -> bool {
        matches!(
            self.socket.socket.state,
            TcpState::Established | TcpState::FinWait2
        ) && !self.socket.orphan
            && !self.socket.not_accepted
    }

    /// Whether the peer is on another host: on the same host the kernel closes its side if it exits.
    fn leaves_the_host(&self) -> bool {
        let socket = &self.socket.socket;
        let is_elsewhere = match self.socket.peer {
            Some(PeerPlace::Here | PeerPlace::Proxy { .. }) => false,
            Some(PeerPlace::Elsewhere) | None => true,
        };
        is_elsewhere
            && !socket.peer.address.is_loopback()
            && socket.peer.address != socket.local.address
    }

    /// Only keepalive would detect a dead peer.
    fn is_idle(&self) -> bool {
        let active = [
            TimerKind::Retransmit,
            TimerKind::LossProbe,
            TimerKind::Reorder,
            TimerKind::WindowProbe,
            TimerKind::SendRetry,
        ];
        let timers = &self.socket.timers;
        !timers.iter().any(|timer| active.contains(&timer.kind))
    }

    /// The time from which a state that is normal for a moment is a finding, milliseconds.
    fn soon_ms(&self) -> u64 {
        /// Shorter silences are normal.
        const IDLE_MS: u64 = 60_000;
        self.silent_ms.min(IDLE_MS)
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

    fn is_off(&self) -> bool {
        self.keepalive().is_some_and(|keepalive| !keepalive.enabled)
    }
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
    let remedy = settings::switch_on(case);
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
