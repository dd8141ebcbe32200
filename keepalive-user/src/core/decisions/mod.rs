//! # Decisions and causes
//!
//! Infers the kernel's decision from its actions: pure functions of one record. Each rule names its
//! kernel function (in `net/ipv4/tcp_timer.c` unless another file is named).

mod cause;

use keepalive_ebpf::{Kind, Record, RecordFlags, RouteFlags, TcpSample};
use linux_raw_sys::errno;

use crate::core::{
    arithmetic::Effective,
    event::{Decision, Outage},
    kernel::state,
    sample::{rearmed, silence, unsent},
};

/// The result of the local send of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// `tcp_write_wakeup` returned 0: the probe was passed to the device.
    Sent,
    /// It returned a negative errno: counted by the kernel, but nothing left the host.
    Failed(u32),
    /// It returned a positive value: dropped by the qdisc, not counted by the keepalive timer.
    Dropped,
    /// The backend does not observe it.
    Unknown,
}

/// The result of the send, if `tcp_write_wakeup` may have run.
pub fn send(record: &Record) -> Send {
    match (
        record.flags.contains(RecordFlags::WAKEUP_SEEN),
        record.wakeup_result,
    ) {
        (false, _) => Send::Unknown,
        (true, 0) => Send::Sent,
        (true, result @ ..0) => Send::Failed(result.unsigned_abs()),
        (true, _) => Send::Dropped,
    }
}

/// Why a segment that the run built did not leave this host, or cannot have. After a failed search for a route
/// the socket has none (`ip_queue_xmit`, `inet6_csk_xmit`).
pub fn outage(record: &Record) -> Option<Outage> {
    match send(record) {
        Send::Failed(errno::EHOSTUNREACH | errno::ENETUNREACH) => Some(Outage::NoRoute),
        Send::Failed(errno::EPERM | errno::EACCES) => Some(Outage::Firewall),
        Send::Dropped => Some(of_device(record.route.flags).unwrap_or(Outage::Queue)),
        Send::Failed(_) | Send::Sent => of_device(record.route.flags),
        Send::Unknown if record.route.flags == RouteFlags::READ => Some(Outage::NoRoute),
        Send::Unknown => of_device(record.route.flags),
    }
}

fn of_device(route: RouteFlags) -> Option<Outage> {
    if !route.contains(RouteFlags::READ | RouteFlags::CACHED) {
        None
    } else if !route.contains(RouteFlags::UP) {
        Some(Outage::DeviceDown)
    } else if !route.contains(RouteFlags::CARRIER) {
        Some(Outage::NoCarrier)
    } else {
        None
    }
}

/// The way in which `tcp_keepalive_timer` returned.
pub fn decision(record: &Record, hz: u32) -> Decision {
    let (before, after) = (&record.before, &record.after);
    if let Some(probe) = probed(record, hz) {
        return probe;
    }
    // `sock_owned_by_user`: retried after HZ/20. The flag is checked at both ends because a
    // remainder can be as short, the length because the socket may have been free in between.
    let retried = rearmed(after).is_some_and(|length| length <= u64::from(hz / 20) + 1);
    if before.owned && after.owned && retried {
        return Decision::SocketBusy;
    }
    if before.state == state::FIN_WAIT2 && before.orphan {
        return Decision::FinWait2;
    }
    if record.id.state == state::CLOSE && before.state != state::CLOSE {
        return Decision::Killed;
    }
    let Some(length) = rearmed(after) else {
        return Decision::Stopped;
    };
    // The entry hook runs before the lock is taken, so a segment may have arrived in between; then the
    // sample at exit decides, and a re-arm of less than the full time means `not_idle`.
    let time = Effective::of(record, hz).time;
    let wait = after.expires.saturating_sub(before.jiffies);
    let full = wait.saturating_add(1) >= u64::from(time);
    match (before.packets_out > 0, unsent(before) > 0) {
        (true, _) => Decision::DataInFlight,
        (_, true) => Decision::DataUnsent,
        _ if full && after.packets_out > 0 => Decision::DataInFlight,
        _ if full && unsent(after) > 0 => Decision::DataUnsent,
        // Owned for a moment only: an idle socket that is not owned would get a probe.
        _ if length <= u64::from(hz / 20)
            && silence(before).is_some_and(|silence| silence >= time) =>
        {
            Decision::SocketBusy
        }
        _ => Decision::NotIdle,
    }
}

/// Whether a probe was sent. Where `tcp_write_wakeup` is hooked its return value decides; elsewhere
/// the count does, which the timer raises for every probe except one dropped by the qdisc.
fn probed(record: &Record, hz: u32) -> Option<Decision> {
    if record.flags.contains(RecordFlags::WAKEUP_WATCHED) {
        return match send(record) {
            Send::Unknown => None,
            Send::Dropped => Some(Decision::ProbeFailed),
            Send::Sent | Send::Failed(_) => Some(Decision::ProbeSent),
        };
    }
    let (before, after) = (&record.before, &record.after);
    if is_busy(before) && is_busy(after) {
        // The zero-window timer, on another CPU, moves the same count.
        return None;
    }
    let counted = after.probes_out.wrapping_sub(before.probes_out);
    let killed = record.id.state == state::CLOSE;
    if counted == 1 && !killed {
        return Some(Decision::ProbeSent);
    }
    // Answered before the exit hook ran: the count is 0 again, but a segment was sent, an ACK was
    // received, no data was, and the timer was armed for the interval.
    let effective = Effective::of(record, hz);
    let answered = after.probes_out == 0
        && after.segs_out != before.segs_out
        && after.rcv_tstamp != before.rcv_tstamp
        && after.lrcvtime == before.lrcvtime
        && rearmed(after).is_some_and(|length| length.abs_diff(effective.interval.into()) <= 1);
    if answered && !killed {
        return Some(Decision::ProbeSent);
    }
    // `TCP_RESOURCE_PROBE_INTERVAL`: HZ/2 until the next try.
    let idle = silence(before).is_some_and(|silence| silence >= effective.time);
    let quiet = !is_busy(before) && !before.owned;
    let retry = rearmed(after).is_some_and(|length| length.abs_diff(u64::from(hz / 2)) <= 1);
    let built = after.segs_out != before.segs_out;
    (counted == 0 && idle && quiet && retry && built && !killed).then_some(Decision::ProbeFailed)
}

/// Whether data is in flight or waits to be sent: `tcp_keepalive_timer` sends no probe then.
fn is_busy(sample: &TcpSample) -> bool {
    sample.packets_out > 0 || unsent(sample) > 0
}

/// Whether the kernel counted a probe in this run of the keepalive timer: the probes among records that
/// are lost undecided, by the rule of [`keepalive_ebpf::Loss::RingProbes`].
pub fn is_counted_probe(record: &Record) -> bool {
    record.kind == Kind::KeepaliveTimer
        && !is_busy(&record.before)
        && record.after.probes_out == record.before.probes_out.wrapping_add(1)
}

pub use self::cause::{cause, fatal_signal};

#[cfg(test)]
mod tests;
