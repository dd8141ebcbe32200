//! The exact sentences of the calculator; the scenario suite tests those about sockets.

use super::*;
use crate::core::{arithmetic, event::PlannedSettings, kernel};

fn calculated(time_s: u64, interval_s: u64, probes: u32, user_timeout_ms: u64) -> String {
    let settings = PlannedSettings {
        time_ms: time_s * 1000,
        interval_ms: interval_s * 1000,
        probes,
        user_timeout_ms,
        retries2: 15,
        rto_max_ms: kernel::RTO_MAX_MS,
    };
    let explanation = Explanation {
        plan: Some(arithmetic::plan(settings, Some(250))),
        ..Explanation::default()
    };
    let mut bytes = Vec::new();
    text(&explanation, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_defaults() {
    let expected = "\
A peer that falls silent gets its first probe after 2 h (at most 2 h 2 min), then one every 75 s.
It is considered dead after 2 h 11 min (at most 2 h 13 min): 9 unanswered probes, by TCP_KEEPCNT 9.
If no timer is late: probes at 7200, 7275, 7350, 7425, 7500, 7575, 7650, 7725, 7800 s, the end at \
7875 s.
If data is not acknowledged keepalive does not run: dead 15 min (at most 19 min) after the first \
retransmission, by tcp_retries2 15.
";
    assert_eq!(calculated(7200, 75, 9, 0), expected);
}

/// grpc-go#6250.
#[test]
fn a_keepcnt_without_effect() {
    let expected = "\
A peer that falls silent gets its first probe after 15 s (at most 15.2 s), then one every 15 s.
It is considered dead after 30 s (at most 30.5 s): 1 unanswered probe, by TCP_USER_TIMEOUT 20 s.
If no timer is late: probes at 15 s, the end at 30 s.
TCP_KEEPCNT 9 has no effect: with TCP_USER_TIMEOUT set the kernel ignores it.
If data is not acknowledged keepalive does not run: dead 20 s (at most 22 s) after the first \
retransmission, by TCP_USER_TIMEOUT 20 s.
";
    assert_eq!(calculated(15, 15, 9, 20_000), expected);
}
