//! Each socket is listed once, and a failing namespace does not affect others.

use anyhow::ensure;

use super::*;

fn socket(sk: u64, cookie: u64, peer_port: u16) -> Snapshot {
    Snapshot {
        id: Identity {
            sk,
            cookie,
            peer_port,
            ..Identity::default()
        },
        ..Snapshot::default()
    }
}

#[test]
fn a_socket_is_listed_once_and_its_successor_too() {
    let mut found = Found::default();
    let (first, successor, other) = (socket(1, 0, 80), socket(1, 0, 81), socket(0, 2, 80));
    for socket in [first, first, successor, successor, other, other] {
        found.add(&socket);
    }
    assert_eq!(found.sockets, [first, successor, other]);
    found.forget_since(2);
    found.add(&other);
    assert_eq!(found.len(), 3);
}

#[test]
fn a_failing_namespace_does_not_affect_others() {
    let open = || Namespace::current().unwrap();
    let three = [open(), open(), open()];
    let mut calls = 0;
    let mut fail_from = |good: u32| {
        calls = 0;
        each_namespace(&three, |_| {
            calls += 1;
            ensure!(calls <= good, "closed");
            Ok(())
        })
    };
    assert!(fail_from(3).unwrap().is_empty());
    let failed = fail_from(1).unwrap();
    assert_eq!((failed[0].count, &*failed[0].reason), (2, "closed"));
    assert_eq!(fail_from(0).unwrap_err().to_string(), "closed");
    assert!(each_namespace(&[], |_| Ok(())).unwrap().is_empty());
}
