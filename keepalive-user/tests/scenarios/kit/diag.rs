//! A witness with millisecond resolution: the timers that sock_diag(7) reports, parsed
//! independently of the tracer's own parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail, ensure};
use linux_raw_sys::net::{AF_INET, IPPROTO_TCP};
use linux_raw_sys::netlink::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send};

use crate::kit::sys;

/// The one timer that the kernel reports for a socket.
#[derive(Debug)]
pub struct Timer {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// `idiag_timer`: 1 retransmit, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe; 0 none.
    pub kind: u8,
    pub retries: u64,
    pub left_ms: u64,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// A socket for a request about TCP, and the request: `struct nlmsghdr` and `struct inet_diag_req_v2`, for all
/// states and any socket.
fn request(kind: u16, flags: u32, family: AddressFamily) -> Result<(OwnedFd, [u8; 72])> {
    let socket = sys::socket(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut request = [0_u8; 72];
    request[..4].copy_from_slice(&72_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    let flags = (NLM_F_REQUEST | flags) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[16] = family.as_raw() as u8;
    request[17] = IPPROTO_TCP as u8;
    request[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    Ok((socket, request))
}

/// Has the kernel abort an IPv4 connection of the calling thread's namespace, as `ss -K` does
/// (CONFIG_INET_DIAG_DESTROY).
pub fn destroy(local: SocketAddr, peer: SocketAddr) -> Result<()> {
    let (SocketAddr::V4(local), SocketAddr::V4(peer)) = (local, peer) else {
        bail!("{local} is not IPv4");
    };
    let (socket, mut request) = request(SOCK_DESTROY, NLM_F_ACK, AddressFamily::INET)?;
    // `struct inet_diag_sockid`: ports, addresses, interface, and any cookie.
    request[24..26].copy_from_slice(&local.port().to_be_bytes());
    request[26..28].copy_from_slice(&peer.port().to_be_bytes());
    request[28..32].copy_from_slice(&local.ip().octets());
    request[44..48].copy_from_slice(&peer.ip().octets());
    request[64..72].copy_from_slice(&[0xff; 8]);
    send(&socket, &request, SendFlags::empty()).context("SOCK_DESTROY")?;
    let mut reply = [0_u8; 1024];
    let (length, _) = recv(&socket, &mut reply, RecvFlags::empty()).context("SOCK_DESTROY")?;
    ensure!(length >= 20, "SOCK_DESTROY: {length} bytes");
    match word(&reply, 16).cast_signed() {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(-error)).context("SOCK_DESTROY"),
    }
}

/// The timers of all TCP sockets of one address family, in the calling thread's namespace.
pub fn timers(family: AddressFamily) -> Result<Vec<Timer>> {
    let (socket, request) = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family)?;
    let sent = send(&socket, &request, SendFlags::empty()).context("sock_diag")?;
    ensure!(sent == request.len(), "sock_diag took {sent} bytes");
    let mut found = Vec::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let (length, _) = recv(&socket, &mut *buffer, RecvFlags::empty()).context("sock_diag")?;
        let mut rest = &buffer[..length];
        while rest.len() >= 16 {
            let size = word(rest, 0) as usize;
            match word(rest, 4) as u16 {
                SOCK_DIAG_BY_FAMILY => found.push(timer(&rest[16..size])),
                kind if u32::from(kind) == NLMSG_DONE => return Ok(found),
                kind => bail!("sock_diag: a message of kind {kind}"),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// `struct inet_diag_msg`.
fn timer(message: &[u8]) -> Timer {
    let port = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let address = |at: usize| -> IpAddr {
        let octets: [u8; 16] = message[at..at + 16].try_into().unwrap_or_default();
        let [a, b, c, d, ..] = octets;
        match u32::from(message[0]) {
            AF_INET => Ipv4Addr::new(a, b, c, d).into(),
            _ => Ipv6Addr::from(octets).into(),
        }
    };
    Timer {
        local: SocketAddr::new(address(8), port(4)),
        peer: SocketAddr::new(address(24), port(6)),
        kind: message[2],
        retries: message[3].into(),
        left_ms: word(message, 52).into(),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes)
}
