//! The wire format of sock_diag(7): encodes requests and decodes sockets. Pure functions of bytes, which
//! may be malformed.

mod snapshot;

use keepalive_ebpf::Snapshot;
use linux_raw_sys::{
    net::IPPROTO_TCP,
    netlink::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, byteorder::network_endian::U16};

pub use self::snapshot::{is_of_a_self_test, snapshot};

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SocketId {
    local_port: U16,
    peer_port: U16,
    local: [u8; 16],
    peer: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` after its header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKMEMINFO: u16 = 7;
/// `NLM_F_DUMP_INTR`: the sockets changed during the dump, so that it is inconsistent.
const INTERRUPTED: u16 = 0x10;

/// The request for all TCP sockets of one address family.
pub fn request(family: u8, sequence: u32) -> impl AsRef<[u8]> {
    let request = Request {
        header: Header {
            length: size_of::<Request>() as u32,
            kind: SOCK_DIAG_BY_FAMILY,
            flags: (NLM_F_REQUEST | NLM_F_DUMP) as u16,
            sequence,
            port: 0,
        },
        family,
        protocol: IPPROTO_TCP as u8,
        extensions: 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_SKMEMINFO - 1),
        pad: 0,
        states: u32::MAX,
        id: SocketId::default(),
    };
    let mut bytes = [0; size_of::<Request>()];
    bytes.copy_from_slice(request.as_bytes());
    bytes
}

/// One message of a dump.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Body of a socket's message, for [`snapshot()`].
    Socket(&'a [u8]),
    /// The dump is complete.
    Done,
    /// The kernel refuses: errno.
    Refused(i32),
    /// The message is malformed.
    Malformed,
}

/// The messages of one datagram that belong to a dump, each with whether the kernel marks the dump
/// inconsistent (`NLM_F_DUMP_INTR`); stops at the first malformed one.
pub fn messages(mut datagram: &[u8], sequence: u32) -> impl Iterator<Item = (bool, Message<'_>)> {
    std::iter::from_fn(move || {
        loop {
            if datagram.is_empty() {
                return None;
            }
            let Some((header, body, rest)) = split(datagram) else {
                datagram = &[];
                return Some((false, Message::Malformed));
            };
            datagram = rest;
            // It belongs to an aborted dump.
            if header.sequence != sequence {
                continue;
            }
            let errno = body.first_chunk().map(|errno| i32::from_ne_bytes(*errno));
            let message = match (u32::from(header.kind), errno) {
                (NLMSG_DONE | NLMSG_ERROR, None) => Message::Malformed,
                // NLMSG_DONE also ends a dump that fails; only this number differs.
                (NLMSG_DONE, Some(0..)) => Message::Done,
                (NLMSG_DONE | NLMSG_ERROR, Some(errno)) => Message::Refused(errno.saturating_neg()),
                _ if header.kind == SOCK_DIAG_BY_FAMILY => Message::Socket(body),
                _ => continue,
            };
            return Some((header.flags & INTERRUPTED != 0, message));
        }
    })
}

fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let (header, _) = Header::read_from_prefix(bytes).ok()?;
    let length = header.length as usize;
    let body = bytes.get(size_of::<Header>()..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((header, body, rest))
}

/// The time and the namespace of a dump.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
}

/// The sockets in one datagram of the first dump, up to the first malformed message.
pub fn sockets_of(datagram: &[u8], moment: Moment) -> impl Iterator<Item = Snapshot> {
    messages(datagram, 1).filter_map(move |(_, message)| match message {
        Message::Socket(body) => snapshot(body, moment),
        Message::Done | Message::Refused(_) | Message::Malformed => None,
    })
}

#[cfg(test)]
mod tests;
