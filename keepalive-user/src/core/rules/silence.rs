//! Connections on which nothing arrives: whether either end, or a middlebox, would notice.

use super::{
    Case, Middlebox, Violation,
    middlebox::{self, Expiry},
    settings,
};
use crate::core::format::{millis, name};

/// A lasting, idle connection to another host with keepalive known to be off: nothing but keepalive would
/// detect a dead peer.
fn is_unguarded(case: &Case<'_>) -> bool {
    case.is_off() && case.lasts() && case.is_idle() && case.leaves_the_host()
}

pub fn zombie_suspect(case: &Case<'_>) -> Option<Violation> {
    let silence = case.socket.heard_ms()?;
    (is_unguarded(case) && silence >= case.silent_ms).then(|| Violation {
        evidence: format!(
            "{}, silent for {}, SO_KEEPALIVE off, nothing in flight",
            name(case.socket.socket.state),
            millis(silence)
        ),
        consequence: "if the peer is dead, that is never detected".to_owned(),
        remedy: settings::switch_on(case),
    })
}

pub fn no_keepalive(case: &Case<'_>) -> Option<Violation> {
    let silence = case.socket.heard_ms()?;
    // With a middlebox `late_for_middlebox` gives more detail.
    let is_idle = (case.soon_ms()..case.silent_ms).contains(&silence)
        && case.middlebox.is_none_or(Middlebox::is_proxy);
    (is_unguarded(case) && is_idle).then(|| Violation {
        evidence: format!("silent for {}, SO_KEEPALIVE off", millis(silence)),
        consequence: "a dead peer is detected only when data is sent".to_owned(),
        remedy: settings::switch_on(case),
    })
}

/// Silent except for the peer's probes.
pub fn only_peer_probes(case: &Case<'_>) -> Option<Violation> {
    let (silence, probe) = case.socket.silence_ms.zip(case.socket.peer_probe_ms)?;
    // With unread data they may be zero-window probes: `not_read`.
    let is_probed =
        probe < case.soon_ms() && silence >= case.soon_ms() && case.socket.receive_queue == 0;
    (is_unguarded(case) && is_probed).then(|| Violation {
        evidence: format!(
            "no data and no ACK for {}, the peer's last probe {} ago; SO_KEEPALIVE off",
            millis(silence),
            millis(probe)
        ),
        consequence: format!(
            "the peer detects that this end is gone; this end would not detect that the peer is{}",
            case.middlebox
                .filter(|middlebox| probe < middlebox.timeout_ms && !middlebox.is_proxy())
                .map_or_else(String::new, |middlebox| format!(
                    "; {} keeps the connection as long as the peer probes at least every {}",
                    middlebox.name,
                    millis(middlebox.timeout_ms)
                ))
        ),
        remedy: settings::switch_on(case),
    })
}

pub fn late_for_middlebox(case: &Case<'_>) -> Option<Violation> {
    let middlebox = case.middlebox?;
    let keepalive = case.keepalive()?;
    let timeout = middlebox.timeout_ms;
    if !case.lasts() || !case.leaves_the_host() {
        return None;
    }
    if let Expiry::Proxy { setting } = middlebox.expiry {
        // It has outlived the timeout: no such proxy is between the ends.
        if case.socket.last_data_ms.is_some_and(|ago| ago > timeout) {
            return None;
        }
        return Some(middlebox::behind_a_proxy(middlebox, setting, case.socket));
    }
    // The peer's probe passed it after the timeout began. A stamp as old as the silence is not evidence: a
    // duplicate of a SYN-ACK leaves one, too.
    let silence = case.socket.silence_ms.unwrap_or_default();
    let probed = case.socket.peer_probe_ms.filter(|&ago| ago < silence / 2);
    if probed.is_some_and(|ago| ago < timeout) {
        return None;
    }
    if !keepalive.enabled {
        return Some(Violation {
            evidence: format!("SO_KEEPALIVE off, {}", middlebox.forgets()),
            consequence: format!(
                "dropped after {} of silence, {}",
                millis(timeout),
                middlebox.then()
            ),
            remedy: middlebox.remedy(|_| settings::switch_on(case)),
        });
    }
    let plan = case.plan?;
    if plan.first_probe_ms.most < timeout {
        return armed_before(case, middlebox);
    }
    Some(middlebox::late(case, middlebox, keepalive, plan))
}

/// The settings are short enough, but the armed timer is older than they are.
fn armed_before(case: &Case<'_>, middlebox: &Middlebox) -> Option<Violation> {
    let socket = case.socket;
    let due = socket
        .next_probe?
        .earliest_ms?
        .checked_add(socket.silence_ms?)?;
    (due >= middlebox.timeout_ms && socket.probes_out == 0).then(|| Violation {
        evidence: format!(
            "the next probe leaves after {} of silence: the timer was armed before its settings \
             changed; {}",
            millis(due),
            middlebox.forgets()
        ),
        consequence: format!(
            "dropped {} before the next probe",
            millis(due - middlebox.timeout_ms)
        ),
        remedy: "open connections keep the timer that they have: setsockopt TCP_KEEPIDLE on the \
                 socket arms it again, or a new connection"
            .to_owned(),
    })
}
