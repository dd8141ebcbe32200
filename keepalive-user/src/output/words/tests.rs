//! Death certificates, letter by letter.

use super::*;
use crate::core::event::{TcpState, Totals};

/// Idle 60 s, interval 75 s, count 9, TCP_USER_TIMEOUT 20 s; silent for 735 s.
fn told(cause: Cause, change: impl FnOnce(&mut Closed, &mut Keepalive)) -> String {
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
        told(Cause::KeepaliveProbes, |closed, _| closed.probes_out = 9),
        "no answer to 9 probes over 675 s; peer last heard 14:02:11, 12 min ago; killed by keepalive"
    );
    assert_eq!(
        told(Cause::KeepaliveUserTimeout, |closed, _| {
            closed.probes_out = 1;
            closed.idle_ms = Some(135_000);
        }),
        "TCP_USER_TIMEOUT 20 s ended it after 1 of 9 probes; peer last heard 14:02:11, 135 s ago; \
         killed by keepalive"
    );
}

#[test]
fn killed_by_retransmission() {
    let fifteen = |closed: &mut Closed, _: &mut Keepalive| closed.retransmits = 15;
    assert_eq!(
        told(Cause::RetransmitTimeout, fifteen),
        "15 retransmissions of unacknowledged data; peer last heard 14:02:11, 12 min ago; killed by \
         retransmission; keepalive never ran"
    );
    let probed = told(Cause::RetransmitTimeout, |closed, _| {
        closed.totals.keepalive_probes = 1;
    });
    assert!(!probed.contains("never ran"), "{probed}");
}

#[test]
fn closed_by_its_owner() {
    let short = told(Cause::LocalClose, |closed, _| {
        closed.lifetime_ms = Some(3_000);
    });
    assert_eq!(
        short,
        "closed by its owner first, 3 s after it began; the first probe was due after 60 s of \
         silence: that is why no packet was captured; keepalive had nothing to do with it"
    );
    let long = told(Cause::LocalClose, |closed, _| {
        (closed.lifetime_ms, closed.totals.keepalive_probes) = (Some(200_000), 2);
        closed.totals.keepalive_answers = 2;
    });
    assert_eq!(
        long,
        "closed by its owner first, of its own will: the peer answered 2 of 2 probes; keepalive had \
         nothing to do with it"
    );
    let busy = told(Cause::LocalClose, |closed, _| {
        closed.lifetime_ms = Some(90_000);
    });
    assert!(!busy.contains("captured"), "{busy}");
    let off = told(Cause::LocalClose, |_, keepalive| keepalive.enabled = false);
    assert_eq!(off, "closed by its owner first");
    let dying = told(Cause::LocalClose, |closed, _| closed.probes_out = 2);
    assert_eq!(dying, "closed by its owner first, 2 probes unanswered");
}
