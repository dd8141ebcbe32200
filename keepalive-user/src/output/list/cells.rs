//! What the cells of a row contain.

use super::Text;
use crate::core::{
    event::{
        Blocker, Keepalive, ListedSocket, NextProbe, Origin, RunningTimer, TcpState, TimerKind,
    },
    format::{Brief, escape},
};

/// `sshd/1036`, `sshd/1036 +2` or all of them; `?` if unknown.
pub fn owner(socket: &ListedSocket, all: bool, text: &mut Text) {
    let Some(process) = &socket.process else {
        text.push(match socket.inode {
            _ if socket.orphan => "(orphan)",
            _ if socket.not_accepted => "(not accepted)",
            Some(_) => "?",
            None => "-",
        });
        return;
    };
    text.push(&escape(&process.comm));
    text.push("/");
    text.number(process.pid.into());
    let others = socket.pids.iter().filter(|&&pid| pid != process.pid);
    if all {
        for &pid in others {
            text.push(",");
            text.number(pid.into());
        }
    } else if socket.pids.len() > 1 {
        text.push(" +");
        text.number(others.count() as u64);
    }
}

/// The container, else the path of the cgroup, else its number.
pub fn place(socket: &ListedSocket, text: &mut Text) {
    match (&socket.container_id, &socket.cgroup) {
        (Some(id), _) => {
            text.push("container ");
            // Container runtimes abbreviate the id to 12 digits.
            text.push(id.get(..12).unwrap_or(id));
        }
        (None, Some(cgroup)) => match &cgroup.path {
            Some(path) => text.push(&escape(path)),
            None => text.number(cgroup.id),
        },
        (None, None) => text.push("-"),
    }
}

/// The names that netstat prints.
pub fn state(state: TcpState) -> &'static str {
    match state {
        TcpState::Established => "ESTABLISHED",
        TcpState::SynSent => "SYN_SENT",
        TcpState::SynRecv | TcpState::NewSynRecv => "SYN_RECV",
        TcpState::FinWait1 => "FIN_WAIT1",
        TcpState::FinWait2 => "FIN_WAIT2",
        TcpState::TimeWait => "TIME_WAIT",
        TcpState::Close => "CLOSE",
        TcpState::CloseWait => "CLOSE_WAIT",
        TcpState::LastAck => "LAST_ACK",
        TcpState::Listen => "LISTEN",
        TcpState::Closing => "CLOSING",
        TcpState::BoundInactive => "BOUND",
        TcpState::Unknown => "UNKNOWN",
    }
}

/// `7200/75/9`, seconds; `*` after what is set on the socket; `off`; `?` if unknown.
pub fn keepalive(socket: &ListedSocket, text: &mut Text) {
    let Some(keepalive) = &socket.keepalive else {
        return text.push(if has_keepalive(socket) { "?" } else { "-" });
    };
    if keepalive.enabled {
        settings(keepalive, text);
    } else {
        text.push("off");
    }
    if keepalive.user_timeout_ms > 0 {
        text.push(" ut ");
        // No sysctl sets TCP_USER_TIMEOUT.
        seconds(keepalive.user_timeout_ms, Some(Origin::Socket), text);
    }
}

/// Whether the socket has settings: `request_sock` and `inet_timewait_sock`, which also holds orphans
/// in FIN_WAIT2, have none.
fn has_keepalive(socket: &ListedSocket) -> bool {
    !matches!(
        socket.socket.state,
        TcpState::TimeWait | TcpState::SynRecv | TcpState::NewSynRecv
    ) && !socket
        .timers
        .iter()
        .any(|timer| timer.kind == TimerKind::FinWait2)
}

fn settings(keepalive: &Keepalive, text: &mut Text) {
    seconds(keepalive.time_ms, keepalive.time_origin, text);
    text.push("/");
    seconds(keepalive.interval_ms, keepalive.interval_origin, text);
    text.push("/");
    text.number(keepalive.probes.into());
    mark(keepalive.probes_origin, text);
}

fn seconds(ms: u64, origin: Option<Origin>, text: &mut Text) {
    text.number(ms / 1000);
    if !ms.is_multiple_of(1000) {
        text.push(".");
        text.thousandths(ms % 1000);
    }
    mark(origin, text);
}

fn mark(origin: Option<Origin>, text: &mut Text) {
    if origin == Some(Origin::Socket) {
        text.push("*");
    }
}

pub fn timers(socket: &ListedSocket, text: &mut Text) {
    if socket.timers.is_empty() {
        return text.push("-");
    }
    for (index, timer) in socket.timers.iter().enumerate() {
        if index > 0 {
            text.push(", ");
        }
        text.push(timer_name(timer.kind));
        text.push(" ");
        brief(timer.in_ms, text);
        if timer.retries > 0 {
            text.push(" #");
            text.number(timer.retries.into());
        }
    }
    if may_hide(socket.one_timer_only, &socket.timers) {
        text.push(" +?");
    }
}

/// Whether a keepalive timer may run that sock_diag does not report: it reports one timer only.
fn may_hide(one_timer_only: bool, timers: &[RunningTimer]) -> bool {
    let before = [
        TimerKind::Retransmit,
        TimerKind::WindowProbe,
        TimerKind::SendRetry,
    ];
    one_timer_only && timers.iter().any(|timer| before.contains(&timer.kind))
}

fn timer_name(kind: TimerKind) -> &'static str {
    match kind {
        TimerKind::Retransmit => "retransmit",
        TimerKind::LossProbe => "loss probe",
        TimerKind::Reorder => "reorder",
        TimerKind::WindowProbe => "window probe",
        TimerKind::SendRetry => "send retry",
        TimerKind::Keepalive => "keepalive",
        TimerKind::FinWait2 => "fin_wait2",
        TimerKind::DelayedAck => "delayed ack",
        TimerKind::TimeWait => "time_wait",
        TimerKind::SynAck => "syn-ack",
    }
}

/// `7.0s (timer 2.0s)`: the earliest probe, and the deadline of the timer if it is earlier.
pub fn next_probe(socket: &ListedSocket, text: &mut Text) {
    let hidden = may_hide(socket.one_timer_only, &socket.timers);
    match socket.next_probe {
        None => text.push(if hidden { "?" } else { "-" }),
        Some(NextProbe {
            blocked_by: Some(blocker),
            timer_ms,
            ..
        }) => text.push(match blocker {
            Blocker::DataInFlight => "data in flight",
            Blocker::DataUnsent => "data unsent",
            Blocker::TimerStops => "stops",
            Blocker::ConnectionEnds => {
                text.push("dies in ");
                return brief(timer_ms, text);
            }
        }),
        Some(NextProbe {
            earliest_ms: Some(earliest),
            timer_ms,
            ..
        }) => {
            brief(earliest, text);
            if earliest > timer_ms {
                text.push(" (timer ");
                brief(timer_ms, text);
                text.push(")");
            }
        }
        Some(_) => text.push("?"),
    }
}

/// Writes a short duration without `fmt`: a listing has a million of them.
pub fn brief(ms: u64, text: &mut Text) {
    let Brief { large, unit, small } = Brief::of(ms);
    text.number(large);
    text.push(unit);
    if let Some((number, unit)) = small {
        text.number(number);
        text.push(unit);
    }
}
