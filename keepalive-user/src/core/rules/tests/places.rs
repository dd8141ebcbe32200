//! Where the peer is, and which side does not do its part.

use super::*;
use crate::core::event::{AcceptQueue, NextProbe};

fn python() -> Option<Arc<Process>> {
    let comm = String::from("python3");
    Some(Arc::new(Process { pid: 7, comm }))
}

pub fn close_wait() -> ListedSocket {
    ListedSocket {
        last_ack_ms: Some(HOUR),
        silence_ms: Some(HOUR),
        process: python(),
        ..in_state(TcpState::CloseWait, off())
    }
}

pub fn not_accepted() -> ListedSocket {
    ListedSocket {
        not_accepted: true,
        inode: None,
        silence_ms: Some(HOUR),
        keepalive: off(),
        accept_queue: Some(AcceptQueue {
            listener: socket().socket.local,
            process: python(),
            length: 3,
            most: 5,
        }),
        ..socket()
    }
}

/// Of this side.
pub fn not_read() -> ListedSocket {
    ListedSocket {
        receive_queue: 5797,
        last_data_ms: Some(60_000),
        process: python(),
        ..socket()
    }
}

/// Silent for an hour but for the peer's probes, each two seconds.
pub fn probed() -> ListedSocket {
    ListedSocket {
        keepalive: off(),
        silence_ms: Some(HOUR),
        peer_probe_ms: Some(1_900),
        ..socket()
    }
}

#[test]
fn the_peers_probes_are_a_sign_of_life() {
    assert_eq!(fired(&probed(), false), ["only_peer_probes"]);
    // They pass the middlebox as well.
    assert_eq!(fired(&probed(), true), ["only_peer_probes"]);
    let ended = |peer_probe_ms| ListedSocket {
        peer_probe_ms: Some(peer_probe_ms),
        ..probed()
    };
    assert_eq!(fired(&ended(60_000), false), ["no_keepalive"]);
    assert_eq!(fired(&ended(HOUR), false), ["zombie_suspect"]);
    let late = ["zombie_suspect", "late_for_middlebox"];
    assert_eq!(fired(&ended(HOUR), true), late);
    let young = ListedSocket {
        silence_ms: Some(10_000),
        ..probed()
    };
    assert!(fired(&young, false).is_empty());
}

#[test]
fn the_peer_has_closed() {
    let leaked = close_wait();
    assert_eq!(fired(&leaked, false), ["close_wait"]);
    assert_eq!(fired(&leaked, true), ["close_wait"]);
    let found = found("close_wait", &leaked, None).unwrap();
    assert!(found.remedy.contains("close it in python3/7"), "{found:?}");
    for other in [
        ListedSocket {
            last_ack_ms: Some(59_999),
            ..leaked.clone()
        },
        ListedSocket {
            orphan: true,
            ..leaked
        },
    ] {
        assert!(fired(&other, false).is_empty());
    }
}

#[test]
fn in_the_queue_of_a_listener() {
    let waiting = not_accepted();
    assert_eq!(fired(&waiting, false), ["not_accepted"]);
    let found = found("not_accepted", &waiting, None).unwrap();
    let queue = "in the queue of LISTEN 10.0.0.1:1 (python3/7), 3 of at most 5";
    assert!(found.evidence.contains(queue), "{found:?}");
    let closed = ListedSocket {
        last_ack_ms: Some(HOUR),
        ..waiting.clone()
    };
    let mut closed = closed;
    closed.socket.state = TcpState::CloseWait;
    assert_eq!(fired(&closed, false), ["not_accepted"]);
    let just_now = ListedSocket {
        silence_ms: Some(999),
        ..waiting
    };
    assert!(fired(&just_now, false).is_empty());
}

#[test]
fn which_side_does_not_read() {
    let here = not_read();
    assert_eq!(fired(&here, false), ["not_read"]);
    let text = found("not_read", &here, None).unwrap();
    let evidence = "5797 bytes received, and not read by python3/7";
    assert!(text.evidence.contains(evidence), "{text:?}");
    let read = ListedSocket {
        receive_queue: 0,
        ..here
    };
    assert!(fired(&read, false).is_empty());
    let there = |closed, rule: Option<Cause>| ListedSocket {
        zero_window_ms: Some(closed),
        send_queue: 43_440,
        death: rule.map(|rule| ListedDeath {
            in_ms: 2_000,
            rule,
            is_estimate: false,
        }),
        ..socket()
    };
    assert!(fired(&there(59_999, None), false).is_empty());
    let counted = there(60_000, Some(Cause::WindowProbeTimeout));
    let text = found("not_read", &counted, None).unwrap().consequence;
    let lasts = "does not end while the peer answers";
    assert!(text.contains("the peer's program does not read") && text.contains(lasts));
    let timed = there(60_000, Some(Cause::WindowProbeUserTimeout));
    let text = found("not_read", &timed, None).unwrap().consequence;
    assert!(text.contains("in 2 s, by TCP_USER_TIMEOUT"), "{text}");
}

/// Own addresses, a mirrored socket, a local proxy: none of these can be a zombie.
#[test]
fn a_peer_on_this_host() {
    let zombie = |peer| ListedSocket {
        keepalive: off(),
        silence_ms: Some(HOUR),
        peer,
        ..socket()
    };
    let far = zombie(Some(PeerPlace::Elsewhere));
    assert_eq!(fired(&far, false), ["zombie_suspect"]);
    let proxy = PeerPlace::Proxy {
        local: socket().socket.peer,
        process: None,
    };
    for near in [PeerPlace::Here, proxy] {
        assert!(fired(&zombie(Some(near.clone())), true).is_empty());
        let idle = ListedSocket {
            silence_ms: Some(60_000),
            ..zombie(Some(near))
        };
        assert!(fired(&idle, false).is_empty());
    }
}

/// The sysctls were lowered: this timer keeps the two hours.
#[test]
fn a_timer_older_than_its_settings() {
    let armed = |earliest_ms| ListedSocket {
        next_probe: Some(NextProbe {
            timer_ms: earliest_ms,
            earliest_ms: Some(earliest_ms),
            blocked_by: None,
        }),
        ..socket()
    };
    assert!(fired(&armed(30_000), true).is_empty());
    assert_eq!(fired(&armed(7_140_000), true), ["late_for_middlebox"]);
    let nat = Middlebox::unnamed(std::time::Duration::from_secs(350));
    let found = found("late_for_middlebox", &armed(7_140_000), Some(&nat)).unwrap();
    assert!(found.remedy.contains("arms it again"), "{found:?}");
}

/// Data in flight without an answer is a finding whether keepalive is on or not, and its remedy is sooner than
/// what happens anyway.
#[test]
fn unanswered_data() {
    let stuck = |keepalive: Option<Keepalive>, retries2| ListedSocket {
        timers: vec![RunningTimer {
            kind: TimerKind::Retransmit,
            in_ms: 1,
            retries: 3,
        }],
        keepalive,
        retries2: Some(retries2),
        ..socket()
    };
    let text = |socket: &ListedSocket| found("suppressed", socket, None).unwrap();
    let off = text(&stuck(off(), 15));
    assert!(!off.consequence.contains("keepalive"), "{off:?}");
    assert!(off.remedy.contains("= 60000"), "{off:?}");
    let few = text(&stuck(Some(keepalive()), 6));
    assert!(
        few.consequence.contains("keepalive does not run"),
        "{few:?}"
    );
    assert!(few.remedy.starts_with("none needed"), "{few:?}");
}
