//! rtnetlink(7): requests, and the kernel's acknowledgement.

use anyhow::{Context, Result, ensure};
use linux_raw_sys::netlink::{NLM_F_ACK, NLM_F_REQUEST};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send};

use crate::kit::sys;

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_NEWQDISC: u16 = 36;
pub const RTM_DELQDISC: u16 = 37;
const NLA_F_NESTED: u16 = 1 << 15;

/// The number of an interface of the calling thread's namespace.
pub fn index_of(name: &str) -> Result<u32> {
    let socket = sys::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    name_to_index(&socket, name).with_context(|| format!("index of {name}"))
}

/// `struct ifinfomsg`: the flags of an interface, and the mask of flags to change; index 0 means a
/// new interface.
pub fn interface(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4]; // family and type
    for word in [index, flags, change] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// A request under construction.
pub struct Message(Vec<u8>);

impl Message {
    pub fn new(kind: u16, flags: u32, header: &[u8]) -> Self {
        let flags = (flags | NLM_F_REQUEST | NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4]; // the length, filled in when sent
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]); // sequence number and port
        bytes.extend(header);
        Self(bytes)
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.bytes(value);
    }

    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends it and waits for the kernel's acknowledgement.
    pub fn send(mut self) -> Result<()> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        // NETLINK_ROUTE is protocol 0, which rustix expresses as `None`.
        let socket = sys::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        let sent = send(&socket, &self.0, SendFlags::empty())?;
        ensure!(sent == self.0.len(), "netlink took {sent} bytes");
        let mut reply = [0_u8; 1024];
        let (got, _) = recv(&socket, &mut reply, RecvFlags::empty())?;
        ensure!(got >= 20, "netlink answered {got} bytes");
        let error = i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]]);
        if error == 0 {
            Ok(())
        } else {
            Err(std::io::Error::from_raw_os_error(-error).into())
        }
    }
}
