//! The exact texts of death certificates.

use super::*;
use crate::core::event::{Closed, TcpState, Totals};

/// Idle 60 s, interval 75 s, count 9, TCP_USER_TIMEOUT 20 s; the last segment is 735 s old.
fn printed(cause: Cause, change: impl FnOnce(&mut Closed, &mut Keepalive)) -> String {
    let mut keepalive = Keepalive {
        enabled: true,
        time_ms: 60_000,
        time_origin: None,
        interval_ms: 75_000,
        interval_origin: None,
        probes: 9,
        probes_origin: None,
        user_timeout_ms: 20_000,
    };
    let mut closed = Closed {
        cause,
        error: None,
        from_state: TcpState::Established,
        orphan: false,
        closed_by: None,
        undelivered_bytes: 0,
        retransmitting_ms: None,
        probing_ms: None,
        last_probe_ms: None,
        outage: None,
        idle_ms: Some(735_000),
        last_data_ms: None,
        lifetime_ms: None,
        watched_ms: 0,
        probes_out: 0,
        retransmits: 0,
        totals: Totals::default(),
    };
    change(&mut closed, &mut keepalive);
    certificate(&closed, &keepalive, "14:02:11")
}

#[test]
fn killed_by_keepalive() {
    assert_eq!(
        printed(Cause::KeepaliveProbes, |closed, _| {
            (closed.probes_out, closed.probing_ms) = (9, Some(675_000));
        }),
        "no answer to 9 probes over 675 s; last segment from the peer at 14:02:11, 12 min ago; \
         killed by keepalive"
    );
    assert_eq!(
        printed(Cause::KeepaliveUserTimeout, |closed, _| {
            closed.probes_out = 1;
            closed.idle_ms = Some(135_000);
        }),
        "TCP_USER_TIMEOUT 20 s ended it after 1 probe without an answer; last segment from the peer at \
         14:02:11, 135 s ago; killed by keepalive"
    );
}

#[test]
fn killed_by_retransmission() {
    let fifteen = |closed: &mut Closed, _: &mut Keepalive| closed.retransmits = 15;
    assert_eq!(
        printed(Cause::RetransmitTimeout, fifteen),
        "15 retransmissions of unacknowledged data; last segment from the peer at 14:02:11, 12 min \
         ago; killed by retransmission; keepalive never ran"
    );
    let probed = printed(Cause::RetransmitTimeout, |closed, _| {
        closed.totals.keepalive_probes = 1;
    });
    assert!(!probed.contains("never ran"), "{probed}");
}

#[test]
fn closed_by_its_owner() {
    let short = printed(Cause::LocalClose, |closed, _| {
        closed.lifetime_ms = Some(3_000);
    });
    assert_eq!(
        short,
        "closed by its owner first, 3 s after it was opened; the first probe was due after 60 s \
         without a segment from the peer: therefore no probe was sent; not caused by keepalive"
    );
    let long = printed(Cause::LocalClose, |closed, _| {
        (closed.lifetime_ms, closed.totals.keepalive_probes) = (Some(200_000), 2);
        closed.totals.keepalive_answers = 2;
    });
    assert_eq!(
        long,
        "closed by its owner first; the peer answered 2 of 2 probes; not caused by keepalive"
    );
    let busy = printed(Cause::LocalClose, |closed, _| {
        closed.lifetime_ms = Some(90_000);
    });
    assert!(!busy.contains("no probe was sent"), "{busy}");
    let off = printed(Cause::LocalClose, |_, keepalive| keepalive.enabled = false);
    assert_eq!(off, "closed by its owner first");
    let dying = printed(Cause::LocalClose, |closed, _| closed.probes_out = 2);
    assert_eq!(dying, "closed by its owner first, 2 probes unanswered");
}
