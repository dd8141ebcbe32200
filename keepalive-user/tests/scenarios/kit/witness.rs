//! Witnesses independent of the tracer: the kernel's counters, and the packets.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use crate::kit::sys;

/// The TcpExt counters of the calling thread's namespace.
pub struct Counters(HashMap<String, u64>);

impl Counters {
    pub fn read() -> Result<Self> {
        let path = "/proc/thread-self/net/netstat";
        let text = fs::read_to_string(path).context(path)?;
        let mut rows = text
            .lines()
            .filter_map(|line| line.strip_prefix("TcpExt: "));
        let (Some(names), Some(values)) = (rows.next(), rows.next()) else {
            bail!("{path} has no TcpExt line");
        };
        let values = values.split(' ').map(|value| value.parse().unwrap_or(0));
        let names = names.split(' ').map(str::to_owned);
        Ok(Self(names.zip(values).collect()))
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// TCPKeepAlive: keepalive probes that the kernel counted.
    pub fn keepalive_probes(&self) -> u64 {
        self.get("TCPKeepAlive")
    }

    /// TCPWinProbe: zero-window probes that the kernel counted.
    pub fn window_probes(&self) -> u64 {
        self.get("TCPWinProbe")
    }

    /// TCPAbortOnTimeout: connections that the kernel ended by a timeout.
    pub fn timeouts(&self) -> u64 {
        self.get("TCPAbortOnTimeout")
    }
}

/// A TCP segment seen on the loopback.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// CLOCK_REALTIME, nanoseconds.
    pub at_ns: u64,
    pub from: u16,
    pub to: u16,
    pub sequence: u32,
    pub payload: usize,
    flags: u8,
}

impl Segment {
    pub fn is_syn(&self) -> bool {
        self.flags & 0x02 != 0
    }

    pub fn is_reset(&self) -> bool {
        self.flags & 0x04 != 0
    }
}

/// A capture of all TCP segments on the loopback of one namespace, from now on.
pub struct Capture(OwnedFd);

const ETH_P_ALL: u16 = 3;
const LOOPBACK_INDEX: i32 = 1;
const PACKET_OUTGOING: u8 = 4;
const ETHERNET_HEADER: usize = 14;

impl Capture {
    pub fn on_loopback() -> Result<Self> {
        let protocol = ETH_P_ALL.to_be();
        let fd = socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            NonZeroU32::new(protocol.into()).map(Protocol::from_raw),
        )
        .context("AF_PACKET")?;
        sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1_i32)?;
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = LOOPBACK_INDEX;
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        sys::check(unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })
        .context("bind AF_PACKET")?;
        Ok(Self(fd))
    }

    /// What was captured since the last call.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        while let Some(received) = self.receive()? {
            segments.extend(received);
        }
        Ok(segments)
    }

    /// One packet: `None` if no packet is queued, `Some(None)` if the packet is not an outgoing TCP
    /// segment.
    fn receive(&self) -> Result<Option<Option<Segment>>> {
        let mut packet = [0_u8; 256];
        let mut control = [0_u64; 16];
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec {
            iov_base: packet.as_mut_ptr().cast(),
            iov_len: packet.len(),
        };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in `message` describes a live buffer of the stated length.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        if length < 0 {
            return Ok(None);
        }
        // AF_PACKET delivers every loopback packet twice, outgoing and incoming; only the first
        // is used.
        if from.sll_pkttype != PACKET_OUTGOING {
            return Ok(Some(None));
        }
        let bytes = &packet[..packet.len().min(length as usize)];
        Ok(Some(decode(bytes, timestamp(&message))))
    }
}

/// The kernel's timestamp of the packet.
fn timestamp(message: &libc::msghdr) -> u64 {
    // SAFETY: `message` was filled by recvmsg and its control buffer is alive.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return 0;
    }
    // SAFETY: the socket asked for SO_TIMESTAMPNS only, whose data is a timespec.
    let time = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::timespec>()
            .read_unaligned()
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Ethernet, IPv4 or IPv6 without extension headers, TCP.
fn decode(packet: &[u8], at_ns: u64) -> Option<Segment> {
    let ip = packet.get(ETHERNET_HEADER..)?;
    let (header, total, protocol) = match ip.first()? >> 4 {
        4 => (
            usize::from(ip[0] & 15) * 4,
            usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])),
            *ip.get(9)?,
        ),
        6 => (
            40,
            40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?])),
            *ip.get(6)?,
        ),
        _ => return None,
    };
    let tcp = ip.get(header..)?;
    if i32::from(protocol) != libc::IPPROTO_TCP || tcp.len() < 20 {
        return None;
    }
    Some(Segment {
        at_ns,
        from: u16::from_be_bytes([tcp[0], tcp[1]]),
        to: u16::from_be_bytes([tcp[2], tcp[3]]),
        sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        payload: total.saturating_sub(header + usize::from(tcp[12] >> 4) * 4),
        flags: tcp[13],
    })
}
