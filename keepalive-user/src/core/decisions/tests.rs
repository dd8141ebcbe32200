//! Every way out of `tcp_keepalive_timer`, and every cause of death.

use keepalive_ebpf::Within;
use linux_raw_sys::errno;

use super::*;
use crate::core::event::Cause;

const HZ: u32 = 250;
const NOW: u64 = 0x1_0000_1000;

/// A timer run of an idle, established socket: silent for 2 s of 1 s, re-armed for the interval.
fn run() -> Record {
    let mut record = Record {
        flags: RecordFlags::WAKEUP_WATCHED,
        ..Record::new(Kind::KeepaliveTimer)
    };
    record.settings.time = HZ;
    record.settings.interval = 2 * HZ;
    record.settings.probes = 3;
    record.id.state = state::ESTABLISHED;
    for sample in [&mut record.before, &mut record.after] {
        sample.jiffies = NOW;
        sample.rcv_tstamp = (NOW as u32).wrapping_sub(2 * HZ);
        sample.state = state::ESTABLISHED;
        sample.keepopen = true;
    }
    record.after.timer_pending = true;
    record.after.expires = NOW + u64::from(2 * HZ);
    record
}

fn with(change: impl FnOnce(&mut Record)) -> Decision {
    let mut record = run();
    change(&mut record);
    decision(&record, HZ)
}

fn wakeup(result: i32) -> impl FnOnce(&mut Record) {
    move |record| {
        record.flags |= RecordFlags::WAKEUP_SEEN;
        record.wakeup_result = result;
    }
}

#[test]
fn probes() {
    assert_eq!(with(wakeup(0)), Decision::ProbeSent);
    assert_eq!(
        with(wakeup(-(errno::EHOSTUNREACH as i32))),
        Decision::ProbeSent,
        "counted, though no packet left"
    );
    assert_eq!(with(wakeup(1)), Decision::ProbeFailed);
}

#[test]
fn probes_unwatched() {
    let counted = |before: u8, after: u8| {
        with(|record| {
            record.flags = RecordFlags::empty();
            (record.before.probes_out, record.after.probes_out) = (before, after);
        })
    };
    assert_eq!(counted(0, 1), Decision::ProbeSent);
    assert_eq!(counted(255, 0), Decision::ProbeSent, "the count is a byte");
    let dropped = with(|record| {
        record.flags = RecordFlags::empty();
        record.after.segs_out = 1;
        record.after.expires = NOW + u64::from(HZ / 2);
    });
    assert_eq!(dropped, Decision::ProbeFailed);
}

/// The answer arrived before the exit hook ran (another CPU, PREEMPT_RT): the count is 0 again. The
/// re-arm of 2 s is longer than any remainder of 1 s, so the run cannot have been `not_idle`.
#[test]
fn a_probe_answered_before_the_exit_was_sent() {
    let answered = with(|record| {
        record.flags = RecordFlags::empty();
        record.after.segs_out = 1;
        record.after.rcv_tstamp = NOW as u32;
    });
    assert_eq!(answered, Decision::ProbeSent);
}

/// The zero-window timer ran on another CPU, and moved the count.
#[test]
fn a_run_with_data_before_and_after_sent_no_probe() {
    let window = with(|record| {
        record.flags = RecordFlags::empty();
        (record.before.probes_out, record.after.probes_out) = (1, 2);
        (record.before.write_seq, record.after.write_seq) = (42_000, 42_000);
        record.after.expires = NOW + u64::from(HZ);
    });
    assert_eq!(window, Decision::DataUnsent);
}

#[test]
fn suppressed() {
    let full = |record: &mut Record| record.after.expires = NOW + u64::from(HZ);
    assert_eq!(
        with(|record| {
            record.before.packets_out = 1;
            full(record);
        }),
        Decision::DataInFlight
    );
    assert_eq!(
        with(|record| {
            record.before.write_seq = 10;
            full(record);
        }),
        Decision::DataUnsent
    );
    assert_eq!(
        with(|record| {
            record.after.packets_out = 1;
            full(record);
        }),
        Decision::DataInFlight,
        "received before the lock was taken"
    );
    assert_eq!(
        with(|record| record.after.expires = NOW + 100),
        Decision::NotIdle
    );
}

#[test]
fn the_length_alone_does_not_mean_busy() {
    let rearmed = |owned| {
        with(|record| {
            record.after.expires = NOW + u64::from(HZ / 20);
            (record.before.owned, record.after.owned) = (owned, owned);
        })
    };
    assert_eq!(rearmed(true), Decision::SocketBusy);
    assert_eq!(
        rearmed(false),
        Decision::SocketBusy,
        "owned in between: idle long enough, but no probe"
    );
    let remainder = with(|record| {
        record.after.expires = NOW + u64::from(HZ / 20);
        record.before.rcv_tstamp = (NOW as u32).wrapping_sub(HZ - HZ / 20);
    });
    assert_eq!(remainder, Decision::NotIdle, "a remainder can be as short");
    let free_in_between = with(|record| {
        (record.before.owned, record.after.owned) = (true, true);
        record.before.packets_out = 1;
        record.after.expires = NOW + u64::from(HZ);
    });
    assert_eq!(
        free_in_between,
        Decision::DataInFlight,
        "owned again at the exit: it waits for the full time"
    );
}

#[test]
fn endings() {
    assert_eq!(
        with(|record| record.after.timer_pending = false),
        Decision::Stopped
    );
    let killed = |record: &mut Record| {
        record.id.state = state::CLOSE;
        record.after.state = state::CLOSE;
        record.after.timer_pending = false;
    };
    assert_eq!(with(killed), Decision::Killed);
    let orphan = |record: &mut Record| {
        record.before.state = state::FIN_WAIT2;
        record.before.orphan = true;
        killed(record);
    };
    assert_eq!(with(orphan), Decision::FinWait2);
}

/// kernel-facts.md 4.2: the length lies between the samples at both ends, and a stalled CPU
/// made `expires - jiffies` at exit up to 13 jiffies short.
#[test]
fn a_full_wait_is_recognised_after_a_stall() {
    let decision = with(|record| {
        record.after.packets_out = 1;
        record.after.expires = NOW + u64::from(HZ);
        record.after.jiffies = NOW + 13;
    });
    assert_eq!(decision, Decision::DataInFlight);
}

/// A socket that reaches CLOSE.
fn end(within: Within, from: u8, error: u32) -> Record {
    let mut record = run();
    record.within = within;
    record.from_state = from;
    record.id.state = state::CLOSE;
    record.id.error = error;
    record.after.snd_wnd = 64_000;
    record
}

fn cause_of(record: &Record) -> Cause {
    cause(record, None, HZ)
}

#[test]
fn killed_by_timers() {
    let timed_out = |within| end(within, state::ESTABLISHED, errno::ETIMEDOUT);
    let with_user_timeout = |within| {
        let mut record = timed_out(within);
        record.settings.user_timeout = 1000;
        record.after.probes_tstamp = (NOW as u32).wrapping_sub(HZ);
        record
    };
    for (within, by_count, by_timeout) in [
        (
            Within::KeepaliveTimer,
            Cause::KeepaliveProbes,
            Cause::KeepaliveUserTimeout,
        ),
        (
            Within::RetransmitTimer,
            Cause::RetransmitTimeout,
            Cause::RetransmitUserTimeout,
        ),
        (
            Within::ProbeTimer,
            Cause::WindowProbeTimeout,
            Cause::WindowProbeUserTimeout,
        ),
    ] {
        assert_eq!(cause_of(&timed_out(within)), by_count);
        assert_eq!(cause_of(&with_user_timeout(within)), by_timeout);
    }
    let mut early = with_user_timeout(Within::ProbeTimer);
    early.after.probes_tstamp = (NOW as u32).wrapping_sub(HZ - 1);
    assert_eq!(
        cause_of(&early),
        Cause::WindowProbeTimeout,
        "the count ran out before the time"
    );
}

#[test]
fn killed_by_a_deferred_timer() {
    let mut record = end(Within::Nothing, state::ESTABLISHED, errno::ETIMEDOUT);
    assert_eq!(cause_of(&record), Cause::WindowProbeTimeout);
    record.after.retransmits = 5;
    assert_eq!(cause_of(&record), Cause::RetransmitTimeout);
}

/// `tcp_retries2` does not apply to a connection that was never established. TCP_USER_TIMEOUT and the
/// count of SYNs both do.
#[test]
fn a_connection_that_was_never_established() {
    for within in [Within::RetransmitTimer, Within::Nothing] {
        for (retransmits, user_timeout, expected) in [
            (6, 0, Cause::ConnectTimeout),
            (6, 60_000, Cause::ConnectTimeout),
            (4, 20_000, Cause::ConnectUserTimeout),
        ] {
            let mut record = end(within, state::SYN_SENT, errno::ETIMEDOUT);
            record.after.retransmits = retransmits;
            (record.after.time, record.after.retrans_stamp) = (21_500_000_000, 500);
            record.settings.user_timeout = user_timeout;
            assert_eq!(cause_of(&record), expected);
        }
    }
    let mut record = end(Within::Nothing, state::SYN_SENT, 0);
    assert_eq!(cause_of(&record), Cause::LocalAbort);
    record.after.retransmits = 2;
    assert_eq!(cause_of(&record), Cause::ConnectAbandoned);
}

#[test]
fn closed_by_either_side() {
    for (from, error, expected) in [
        (state::LAST_ACK, 0, Cause::PeerFin),
        (state::FIN_WAIT2, 0, Cause::LocalClose),
        (state::CLOSING, 0, Cause::LocalClose),
        (state::ESTABLISHED, 0, Cause::LocalAbort),
        (state::CLOSE_WAIT, 0, Cause::LocalAbort),
        (state::ESTABLISHED, errno::ECONNRESET, Cause::PeerReset),
        (state::CLOSE_WAIT, errno::EPIPE, Cause::PeerReset),
        (state::ESTABLISHED, errno::ECONNABORTED, Cause::OutsideAbort),
        (state::ESTABLISHED, errno::EHOSTUNREACH, Cause::NetworkError),
        (200, 0, Cause::Unknown),
    ] {
        assert_eq!(
            cause_of(&end(Within::Nothing, from, error)),
            expected,
            "from {from}, error {error}"
        );
    }
}

/// `tcp_write_err` ends an orphan with an error, `tcp_out_of_resources` without one.
#[test]
fn an_orphan_is_given_up() {
    let orphan = |within, error, user_timeout| {
        let mut record = end(within, state::FIN_WAIT1, error);
        record.id.orphan = true;
        record.settings.user_timeout = user_timeout;
        cause_of(&record)
    };
    for within in [Within::RetransmitTimer, Within::Nothing] {
        let timed_out = |user_timeout| orphan(within, errno::ETIMEDOUT, user_timeout);
        assert_eq!(timed_out(0), Cause::OrphanTimeout);
        assert_eq!(timed_out(60_000), Cause::OrphanUserTimeout);
    }
    // The user timeout had not passed since the first zero-window probe.
    let probed = orphan(Within::ProbeTimer, errno::ETIMEDOUT, 60_000);
    assert_eq!(probed, Cause::OrphanTimeout);
    let dropped = orphan(Within::RetransmitTimer, 0, 0);
    assert_eq!(dropped, Cause::OutOfResources);
}

#[test]
fn an_orphan_in_fin_wait2_was_closed_before() {
    let mut record = end(Within::KeepaliveTimer, state::FIN_WAIT2, 0);
    record.id.orphan = true;
    assert_eq!(cause_of(&record), Cause::LocalClose);
}

#[test]
fn an_owner_that_was_killed() {
    let mut record = end(Within::Nothing, state::FIN_WAIT2, 0);
    assert_eq!(cause(&record, Some(9), HZ), Cause::OwnerKilled);
    record.from_state = state::LAST_ACK;
    assert_eq!(cause(&record, Some(9), HZ), Cause::PeerFin);
    for (exit_code, flags, expected) in [
        (9, RecordFlags::EXITING, Some(9)),
        (0x8b, RecordFlags::EXITING, Some(11)),
        (1 << 8, RecordFlags::EXITING, None),
        (9, RecordFlags::empty(), None),
    ] {
        (record.exit_code, record.flags) = (exit_code, flags);
        assert_eq!(fatal_signal(&record), expected);
    }
}

/// `tcp_retransmit_timer` counts no retransmission while the window is closed.
#[test]
fn a_window_that_closed_over_data_in_flight() {
    let mut record = end(
        Within::RetransmitTimer,
        state::ESTABLISHED,
        errno::ETIMEDOUT,
    );
    record.after.snd_wnd = 0;
    assert_eq!(cause_of(&record), Cause::WindowProbeTimeout);
    record.after.retransmits = 3;
    assert_eq!(cause_of(&record), Cause::RetransmitTimeout);
}

/// Data that arrives for an orphan makes the kernel reset it; a reset may also discard its last data.
#[test]
fn a_reset_of_an_orphan() {
    let mut record = end(Within::Nothing, state::FIN_WAIT2, errno::ECONNRESET);
    record.id.orphan = true;
    assert_eq!(cause_of(&record), Cause::LocalClose);
    (record.from_state, record.after.write_seq) = (state::FIN_WAIT1, 6);
    assert_eq!(cause_of(&record), Cause::PeerReset);
}

/// An ICMP error that was only reported (IP_RECVERR) did not end the connection.
#[test]
fn an_error_that_ended_nothing() {
    let closed = end(Within::Nothing, state::FIN_WAIT2, errno::EHOSTUNREACH);
    assert_eq!(cause_of(&closed), Cause::LocalClose);
    let mut aborted = end(Within::Nothing, state::ESTABLISHED, errno::EHOSTUNREACH);
    assert_eq!(cause_of(&aborted), Cause::NetworkError);
    aborted.flags = RecordFlags::PROCESS_CONTEXT;
    assert_eq!(cause_of(&aborted), Cause::LocalAbort);
}
