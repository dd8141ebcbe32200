//! Valid messages of the kernel, and malformed ones.

use proptest::prelude::*;

use keepalive_ebpf::Mptcp;
use linux_raw_sys::net::AF_INET;

use super::{snapshot::*, *};
use crate::core::kernel::state;

const EPERM: i32 = linux_raw_sys::errno::EPERM as i32;

const MOMENT: Moment = Moment {
    time: 5_000_000_000,
    netns: 7,
};

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let header = Header {
        length: (size_of::<Header>() + body.len()) as u32,
        kind,
        flags,
        sequence: 9,
        port: 0,
    };
    let mut bytes = [header.as_bytes(), body].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (size_of::<Attribute>() + value.len()) as u16;
    let mut bytes = [Attribute { length, kind }.as_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An established connection with a keepalive timer in 1,500 ms and 2 probes out.
fn socket() -> Vec<u8> {
    let mut body = vec![AF_INET as u8, state::ESTABLISHED, 2, 2];
    body.extend([0, 22, 0x9c, 0x40]);
    body.extend([127, 0, 0, 1].iter().chain(&[0; 12]));
    body.extend([127, 0, 0, 2].iter().chain(&[0; 12]));
    for word in [0u32, 0x11, 0x1, 1500, 3, 100, 1000, 4711] {
        body.extend(word.to_ne_bytes());
    }
    let mut info = [0u8; 232];
    info[3] = 2;
    info[52..56].copy_from_slice(&800u32.to_ne_bytes());
    info[56..60].copy_from_slice(&700u32.to_ne_bytes());
    info[NOTSENT_BYTES..NOTSENT_BYTES + 4].copy_from_slice(&60u32.to_ne_bytes());
    body.extend(attribute(INET_DIAG_INFO, &info));
    body.extend(attribute(INET_DIAG_CGROUP_ID, &77u64.to_ne_bytes()));
    let name = attribute(INET_ULP_INFO_NAME, b"mptcp\0");
    body.extend(attribute(INET_DIAG_ULP_INFO | 0x8000, &name));
    body
}

#[test]
fn reads_a_socket() {
    let datagram = message(SOCK_DIAG_BY_FAMILY, 2, &socket());
    let mut found = messages(&datagram, 9);
    let Some((false, Message::Socket(body))) = found.next() else {
        panic!("no socket");
    };
    let socket = snapshot(body, MOMENT).unwrap();
    assert_eq!(found.next(), None);
    assert_eq!((socket.id.local_port, socket.id.peer_port), (22, 40_000));
    assert_eq!(socket.id.cookie, 0x1_0000_0011);
    assert_eq!(
        (socket.id.inode, socket.uid, socket.id.cgroup),
        (4711, 1000, 77)
    );
    assert_eq!((socket.id.netns, socket.id.mptcp), (7, Mptcp::Subflow));
    let sample = &socket.sample;
    assert_eq!((sample.timer_pending, sample.expires), (true, 6500));
    assert_eq!((sample.probes_out, sample.rcv_tstamp), (2, 4300));
    assert_eq!(sample.lrcvtime, 4200);
    assert_eq!(crate::core::sample::unsent(sample), 60);
}

#[test]
fn the_ends_of_a_dump_are_recognized() {
    let errno = (-EPERM).to_ne_bytes();
    let (done, error) = (NLMSG_DONE as u16, NLMSG_ERROR as u16);
    for (bytes, expected) in [
        (message(done, 2, &[0; 4]), (false, Message::Done)),
        (message(done, INTERRUPTED, &[0; 4]), (true, Message::Done)),
        (message(done, 2, &errno), (false, Message::Refused(EPERM))),
        (message(done, 2, &[]), (false, Message::Malformed)),
        (message(error, 0, &errno), (false, Message::Refused(EPERM))),
        (
            message(SOCK_DIAG_BY_FAMILY, INTERRUPTED, &[]),
            (true, Message::Socket(&[])),
        ),
        (vec![1, 2, 3], (false, Message::Malformed)),
        (vec![255; 16], (false, Message::Malformed)),
    ] {
        assert_eq!(messages(&bytes, 9).next(), Some(expected));
    }
    let old = message(SOCK_DIAG_BY_FAMILY, 0, &socket());
    assert_eq!(messages(&old, 10).next(), None, "another dump's");
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..512), sequence: u32) {
        for (_, message) in messages(&bytes, sequence) {
            if let Message::Socket(body) = message {
                snapshot(body, MOMENT);
            }
        }
        snapshot(&bytes, MOMENT);
    }
}

/// The difference between a length field and the true length.
fn lengths() -> impl Strategy<Value = i32> {
    prop_oneof![8 => Just(0), 1 => -20..20, 1 => Just(i32::MIN), 1 => Just(i32::from(u16::MAX))]
}

fn length_field(length: usize, error: i32) -> u32 {
    match error {
        i32::MIN => 0,
        error => (length as u32).saturating_add_signed(error),
    }
}

/// Known attributes, unknown ones, and nested ones.
fn attributes_of_any_kind() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(INET_DIAG_INFO),
        Just(INET_DIAG_MARK),
        Just(INET_DIAG_CGROUP_ID),
        Just(INET_DIAG_ULP_INFO),
        Just(INET_DIAG_ULP_INFO | 0x8000),
        Just(INET_ULP_INFO_NAME),
        any::<u16>()
    ];
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..260),
        Just(b"mptcp\0".to_vec()),
        Just(attribute(INET_ULP_INFO_NAME, b"mptcp\0")),
        Just(attribute(
            INET_DIAG_ULP_INFO,
            &attribute(INET_ULP_INFO_NAME, b"tls\0")
        )),
    ];
    let one = (kind, value, lengths()).prop_map(|(kind, value, error)| {
        let mut bytes = attribute(kind, &value);
        let length = length_field(size_of::<Attribute>() + value.len(), error) as u16;
        bytes[..2].copy_from_slice(&length.to_ne_bytes());
        bytes
    });
    proptest::collection::vec(one, 0..6).prop_map(|all| all.concat())
}

/// A message of the dump: its bytes, and whether its length is true.
fn messages_of_any_kind() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let kind = prop_oneof![
        4 => Just(SOCK_DIAG_BY_FAMILY),
        1 => Just(NLMSG_DONE as u16),
        1 => Just(NLMSG_ERROR as u16),
    ];
    let fixed = prop_oneof![
        Just(socket()[..size_of::<Answer>()].to_vec()),
        proptest::collection::vec(any::<u8>(), size_of::<Answer>()),
    ];
    (kind, fixed, attributes_of_any_kind(), lengths()).prop_map(
        |(kind, fixed, attributes, error)| {
            let body = [fixed, attributes].concat();
            let mut bytes = message(kind, 2, &body);
            let length = length_field(size_of::<Header>() + body.len(), error);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            (bytes, error == 0)
        },
    )
}

proptest! {
    /// Whatever the length fields of attributes are: all messages of correct length are returned, and every
    /// socket among them is read.
    #[test]
    fn sound_messages_come_out_whole(all in proptest::collection::vec(messages_of_any_kind(), 1..6)) {
        let sound = all.iter().take_while(|(_, is_true)| *is_true).count();
        let datagram: Vec<u8> = all.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut seen = 0;
        for (index, (_, message)) in messages(&datagram, 9).enumerate() {
            if index < sound {
                prop_assert_ne!(&message, &Message::Malformed);
                seen += 1;
            }
            if let Message::Socket(body) = message {
                let read = snapshot(body, MOMENT);
                prop_assert!(index >= sound || read.is_some());
                prop_assert_eq!(read.is_some(), body.len() >= size_of::<Answer>());
            }
        }
        prop_assert_eq!(seen, sound);
    }

    #[test]
    fn cut_messages_give_an_answer((bytes, _) in messages_of_any_kind(), length in 0usize..400) {
        let cut = &bytes[..length.min(bytes.len())];
        for (_, message) in messages(cut, 9) {
            if let Message::Socket(body) = message {
                snapshot(body, MOMENT);
            }
        }
    }
}

/// The kernel reports the mark only with CAP_NET_ADMIN: without it, it is unknown whether a socket is
/// MPTCP's.
#[test]
fn mptcp_is_unknown_without_the_mark() {
    let plain = &socket()[..size_of::<Answer>()];
    let mark = attribute(INET_DIAG_MARK, &[0; 4]);
    let name = attribute(INET_ULP_INFO_NAME, b"mptcp\0");
    let mptcp = attribute(INET_DIAG_ULP_INFO, &name);
    for (attributes, expected) in [
        (vec![], Mptcp::Unknown),
        (mark.clone(), Mptcp::No),
        (mptcp.clone(), Mptcp::Subflow),
        ([mptcp, mark].concat(), Mptcp::Subflow),
    ] {
        let body = [plain.to_vec(), attributes].concat();
        assert_eq!(snapshot(&body, MOMENT).unwrap().id.mptcp, expected);
    }
}

/// A connection that its peer has closed may wait to be accepted; an orphan cannot be in CLOSE_WAIT.
#[test]
fn only_a_closing_state_is_an_orphan() {
    for (state, orphan) in [
        (state::ESTABLISHED, false),
        (state::CLOSE_WAIT, false),
        (state::SYN_RECV, false),
        (state::FIN_WAIT1, true),
        (state::FIN_WAIT2, true),
        (state::LAST_ACK, true),
    ] {
        let mut body = socket()[..size_of::<Answer>()].to_vec();
        body[1] = state;
        assert!(!snapshot(&body, MOMENT).unwrap().id.orphan, "has a file");
        body[68..72].fill(0);
        assert_eq!(
            snapshot(&body, MOMENT).unwrap().id.orphan,
            orphan,
            "{state}"
        );
    }
}
