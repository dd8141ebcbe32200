//! Links between namespaces, created by rtnetlink: a veth pair with addresses, and a qdisc that
//! drops every packet.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use linux_raw_sys::net::AF_INET;
use linux_raw_sys::netlink::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use crate::kit::net::{Namespace, set_link_up};
use crate::kit::rtnetlink::{
    Message, RTM_DELQDISC, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWQDISC, index_of, interface,
};

/// The near end of the link, in the scenario's namespace.
pub const NEAR: &str = "ka-near";
/// The far end, in a namespace of its own.
pub const FAR: &str = "ka-far";
pub const NEAR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
pub const FAR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xFFFF_FFFF;

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

    /// Runs a closure in the far namespace.
    pub fn at_far<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        self.far.enter()?;
        let result = action();
        self.near.enter()?;
        result
    }
}

fn create_veth(far: &Namespace) -> Result<()> {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &interface(0, 0, 0));
    message.attribute(IFLA_IFNAME, NEAR.as_bytes());
    message.nested(IFLA_LINKINFO, |message| {
        message.attribute(IFLA_INFO_KIND, b"veth");
        message.nested(IFLA_INFO_DATA, |message| {
            message.nested(VETH_INFO_PEER, |message| {
                message.bytes(&interface(0, 0, 0));
                message.attribute(IFLA_IFNAME, FAR.as_bytes());
                message.attribute(IFLA_NET_NS_FD, &far.as_raw_fd().to_ne_bytes());
            });
        });
    });
    message.send()
}

/// Installs a qdisc of length 0 (pfifo limit 0) on the near end: every outgoing packet is dropped,
/// and the sender gets NET_XMIT_DROP.
pub fn drop_everything_at_near() -> Result<()> {
    let mut message = Message::new(
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_REPLACE,
        &traffic_header()?,
    );
    message.attribute(TCA_KIND, b"pfifo\0");
    message.attribute(TCA_OPTIONS, &0_u32.to_ne_bytes());
    message.send().context("pfifo limit 0")
}

/// Removes that qdisc.
pub fn let_through_at_near() -> Result<()> {
    Message::new(RTM_DELQDISC, 0, &traffic_header()?)
        .send()
        .context("removing the qdisc")
}

/// `struct tcmsg` for the root qdisc of the near end.
fn traffic_header() -> Result<Vec<u8>> {
    let mut header = vec![0; 4];
    header.extend(index_of(NEAR)?.to_ne_bytes());
    header.extend(0_u32.to_ne_bytes());
    header.extend(TC_H_ROOT.to_ne_bytes());
    header.extend(0_u32.to_ne_bytes());
    Ok(header)
}

/// Gives an interface an address in a /24.
fn set_address(name: &str, address: IpAddr) -> Result<()> {
    let IpAddr::V4(address) = address else {
        anyhow::bail!("{address} is not IPv4");
    };
    // `struct ifaddrmsg`: family, length of the prefix, flags, scope, index.
    let mut header = vec![AF_INET as u8, 24, 0, 0];
    header.extend(index_of(name)?.to_ne_bytes());
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut message = Message::new(RTM_NEWADDR, flags, &header);
    message.attribute(IFA_LOCAL, &address.octets());
    message.attribute(IFA_ADDRESS, &address.octets());
    message
        .send()
        .with_context(|| format!("address {address} of {name}"))
}
