//! Links between namespaces, made by rtnetlink: a veth pair with addresses, and a queue that
//! drops everything.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};

use crate::kit::net::{Namespace, interface_request, set_link_up};
use crate::kit::sys;

/// The near end of the link, in the scenario's namespace.
pub const NEAR: &str = "ka-near";
/// The far end, in a namespace of its own.
pub const FAR: &str = "ka-far";
pub const NEAR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
pub const FAR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xFFFF_FFFF;
const NLA_F_NESTED: u16 = 1 << 15;

/// Two namespaces joined by a veth pair, both ends up and addressed.
pub struct Link {
    pub near: Namespace,
    pub far: Namespace,
}

impl Link {
    /// Joins the calling thread's namespace to a new one.
    pub fn create() -> Result<Self> {
        let near = Namespace::current()?;
        let far = Namespace::create()?;
        near.enter()?;
        create_veth(&far).context("creating a veth pair")?;
        set_address(NEAR, NEAR_ADDRESS)?;
        set_link_up(NEAR, true)?;
        far.enter()?;
        set_address(FAR, FAR_ADDRESS)?;
        set_link_up(FAR, true)?;
        near.enter()?;
        Ok(Self { near, far })
    }

    /// Does something in the far namespace.
    pub fn at_far<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        self.far.enter()?;
        let result = action();
        self.near.enter()?;
        result
    }
}

fn create_veth(far: &Namespace) -> Result<()> {
    let mut message = Message::new(
        libc::RTM_NEWLINK,
        libc::NLM_F_CREATE | libc::NLM_F_EXCL,
        &[0; size_of::<libc::ifinfomsg>()],
    );
    message.attribute(IFLA_IFNAME, NEAR.as_bytes());
    message.nested(IFLA_LINKINFO, |message| {
        message.attribute(IFLA_INFO_KIND, b"veth");
        message.nested(IFLA_INFO_DATA, |message| {
            message.nested(VETH_INFO_PEER, |message| {
                message.bytes(&[0; size_of::<libc::ifinfomsg>()]);
                message.attribute(IFLA_IFNAME, FAR.as_bytes());
                message.attribute(IFLA_NET_NS_FD, &far.as_raw_fd().to_ne_bytes());
            });
        });
    });
    message.send()
}

/// Puts a queue that holds nothing on the near end: every packet is dropped on its way out, and
/// the sender is told.
pub fn drop_everything_at_near() -> Result<()> {
    let mut message = Message::new(
        libc::RTM_NEWQDISC,
        libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
        &traffic_header()?,
    );
    message.attribute(TCA_KIND, b"pfifo\0");
    message.attribute(TCA_OPTIONS, &0_u32.to_ne_bytes());
    message.send().context("pfifo limit 0")
}

/// Takes that queue away.
pub fn let_through_at_near() -> Result<()> {
    Message::new(libc::RTM_DELQDISC, 0, &traffic_header()?)
        .send()
        .context("removing the queue")
}

/// `struct tcmsg` for the root queue of the near end.
fn traffic_header() -> Result<Vec<u8>> {
    let mut header = vec![0; 4];
    header.extend(index_of(NEAR)?.to_ne_bytes());
    header.extend(0_u32.to_ne_bytes());
    header.extend(TC_H_ROOT.to_ne_bytes());
    header.extend(0_u32.to_ne_bytes());
    Ok(header)
}

fn index_of(name: &str) -> Result<i32> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFINDEX fills the index of the ifreq it is given.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) })
        .with_context(|| format!("index of {name}"))?;
    // SAFETY: the kernel has just filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex })
}

/// Gives an interface an address in a /24.
fn set_address(name: &str, address: IpAddr) -> Result<()> {
    let IpAddr::V4(address) = address else {
        anyhow::bail!("{address} is not IPv4");
    };
    for (request, value) in [
        (libc::SIOCSIFADDR, address),
        (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 255, 255, 0)),
    ] {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut argument = interface_request(name);
        let raw = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(value.octets()),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: sockaddr and sockaddr_in have the same size, and the kernel reads it by family.
        argument.ifr_ifru.ifru_addr =
            unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(raw) };
        // SAFETY: both requests read the address of the ifreq they are given.
        sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const argument) })
            .with_context(|| format!("address {value} of {name}"))?;
    }
    Ok(())
}

/// An rtnetlink request under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: libc::c_int, header: &[u8]) -> Self {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4]; // the length, filled in when sent
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]); // sequence number and port
        bytes.extend(header);
        Self(bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.bytes(value);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.attribute(kind | NLA_F_NESTED, &[]);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends it and waits for the kernel's verdict.
    fn send(mut self) -> Result<()> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        // SAFETY: the pointer and the length describe the message, which outlives the call.
        let sent = unsafe { libc::send(fd.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0) };
        ensure!(sent == self.0.len() as isize, "netlink took {sent} bytes");
        let mut reply = [0_u8; 1024];
        // SAFETY: the pointer and the length describe `reply`, which outlives the call.
        let got = unsafe { libc::recv(fd.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0) };
        ensure!(got >= 20, "netlink answered {got} bytes");
        let error = i32::from_ne_bytes([reply[16], reply[17], reply[18], reply[19]]);
        if error == 0 {
            Ok(())
        } else {
            Err(std::io::Error::from_raw_os_error(-error).into())
        }
    }
}
