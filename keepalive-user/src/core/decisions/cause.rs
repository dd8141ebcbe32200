//! Why a socket reached CLOSE.

use keepalive_ebpf::{Kind, Record, RecordFlags, Within};
use linux_raw_sys::errno;

use crate::core::{
    arithmetic::Effective,
    event::Cause,
    kernel::state,
    sample::{may_send, retransmitting, undelivered},
};

/// Why a socket reached CLOSE. `signal` is what killed the process that closed it, if one did.
pub fn cause(record: &Record, signal: Option<u32>, hz: u32) -> Cause {
    // Read only after the end: what the kernel was doing is unknown.
    if record.kind == Kind::Polled {
        return Cause::Unknown;
    }
    let orphan = record.id.orphan;
    match record.within {
        Within::KeepaliveTimer if record.from_state == state::FIN_WAIT2 && orphan => {
            by_owner(Cause::LocalClose, signal)
        }
        // `tcp_keepalive_timer`: with TCP_USER_TIMEOUT set the count is not checked.
        Within::KeepaliveTimer if record.settings.user_timeout != 0 => Cause::KeepaliveUserTimeout,
        Within::KeepaliveTimer => Cause::KeepaliveProbes,
        Within::RetransmitTimer | Within::ProbeTimer if orphan => orphaned(record, hz),
        Within::RetransmitTimer if is_shut(record) => match record.settings.user_timeout {
            0 => Cause::WindowProbeTimeout,
            _ => Cause::WindowProbeUserTimeout,
        },
        Within::RetransmitTimer => retransmit(record),
        Within::ProbeTimer => window_probe(record, hz),
        Within::Nothing => outside_timers(record, signal, hz),
    }
}

/// The peer closed its window over data in flight: `tcp_retransmit_timer` retransmits then without counting,
/// until `tcp_rtx_probe0_timed_out`.
fn is_shut(record: &Record) -> bool {
    let sample = &record.after;
    sample.snd_wnd == 0 && sample.retransmits == 0 && record.from_state != state::SYN_SENT
}

/// The signal that killed the acting process, if one did.
pub fn fatal_signal(record: &Record) -> Option<u32> {
    /// The low bits of a code of `wait(2)`.
    const SIGNAL: u32 = 0x7f;
    let is_exiting = record.flags.contains(RecordFlags::EXITING);
    Some(record.exit_code & SIGNAL).filter(|&signal| is_exiting && signal != 0)
}

/// Ends outside any timer of this CPU, by the error that the kernel set before.
fn outside_timers(record: &Record, signal: Option<u32>, hz: u32) -> Cause {
    match record.id.error {
        0 => closed_from(record, signal),
        // `tcp_rcv_state_process` calls `tcp_reset` itself if data arrives for an orphan. All of ours was
        // acknowledged.
        errno::ECONNRESET if record.id.orphan && undelivered(record) == 0 => {
            closed_from(record, signal)
        }
        // `tcp_reset` (tcp_input.c): EPIPE in CLOSE_WAIT, ECONNREFUSED in SYN_SENT.
        errno::ECONNRESET | errno::EPIPE | errno::ECONNREFUSED => Cause::PeerReset,
        // `tcp_abort` (tcp.c): `ss -K`.
        errno::ECONNABORTED => Cause::OutsideAbort,
        // A write timer deferred to `release_sock`, which the tracepoint backend does not observe.
        errno::ETIMEDOUT if record.id.orphan => orphaned(record, hz),
        errno::ETIMEDOUT if record.after.retransmits > 0 => retransmit(record),
        errno::ETIMEDOUT => window_probe(record, hz),
        // An error that was reported earlier and ended nothing (IP_RECVERR): a process closed the socket.
        _ if record.flags.contains(RecordFlags::PROCESS_CONTEXT)
            || is_closing(record.from_state) =>
        {
            closed_from(record, signal)
        }
        _ => Cause::NetworkError,
    }
}

fn is_closing(from: u8) -> bool {
    matches!(
        from,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::TIME_WAIT | state::LAST_ACK
    )
}

/// An orphan ended by the write timer. `tcp_write_err` sets an error; `tcp_out_of_resources` sets none.
fn orphaned(record: &Record, hz: u32) -> Cause {
    if record.id.error == 0 {
        return Cause::OutOfResources;
    }
    let by_user_timeout = match record.within {
        Within::ProbeTimer => matches!(
            window_probe(record, hz),
            Cause::WindowProbeUserTimeout | Cause::SendUserTimeout
        ),
        // `tcp_write_timeout` compares with the user timeout alone, if there is one.
        Within::RetransmitTimer | Within::Nothing | Within::KeepaliveTimer => {
            record.settings.user_timeout != 0
        }
    };
    if by_user_timeout {
        Cause::OrphanUserTimeout
    } else {
        Cause::OrphanTimeout
    }
}

/// `tcp_write_timeout`: with TCP_USER_TIMEOUT set `tcp_retries2` is not checked. A SYN has its own count,
/// which is checked as well.
fn retransmit(record: &Record) -> Cause {
    let timeout = record.settings.user_timeout != 0;
    match record.from_state {
        state::SYN_SENT | state::SYN_RECV => {
            // The count may include `tcp_syn_linear_timeouts`, so the time decides.
            let since = retransmitting(&record.after);
            let timed_out = since.is_some_and(|ms| ms >= record.settings.user_timeout.into());
            if timeout && timed_out {
                Cause::ConnectUserTimeout
            } else {
                Cause::ConnectTimeout
            }
        }
        _ if timeout => Cause::RetransmitUserTimeout,
        _ => Cause::RetransmitTimeout,
    }
}

/// `tcp_probe_timer`: the user timeout first, counted from `icsk_probes_tstamp`, then the count.
fn window_probe(record: &Record, hz: u32) -> Cause {
    let timeout = Effective::of(record, hz).user_timeout;
    let since = (record.after.jiffies as u32).wrapping_sub(record.after.probes_tstamp);
    let timed_out = timeout != 0 && record.after.probes_tstamp != 0 && since >= timeout;
    // The window is open: this host could not send.
    match (may_send(&record.after), timed_out) {
        (false, true) => Cause::WindowProbeUserTimeout,
        (false, false) => Cause::WindowProbeTimeout,
        (true, true) => Cause::SendUserTimeout,
        (true, false) => Cause::SendTimeout,
    }
}

/// Which side closed, by the state that the socket left. From a state with both directions open it was
/// aborted: `tcp_disconnect`, or `close` with unread data.
fn closed_from(record: &Record, signal: Option<u32>) -> Cause {
    match record.from_state {
        state::LAST_ACK => Cause::PeerFin,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSING | state::TIME_WAIT => {
            by_owner(Cause::LocalClose, signal)
        }
        // Its SYN was retransmitted: nothing answered.
        state::SYN_SENT if record.after.retransmits > 0 => Cause::ConnectAbandoned,
        state::ESTABLISHED | state::CLOSE_WAIT | state::SYN_SENT | state::SYN_RECV => {
            by_owner(Cause::LocalAbort, signal)
        }
        _ => Cause::Unknown,
    }
}

/// The cause of an end that the owner makes, unless it was killed.
fn by_owner(cause: Cause, signal: Option<u32>) -> Cause {
    if signal.is_some() {
        Cause::OwnerKilled
    } else {
        cause
    }
}
