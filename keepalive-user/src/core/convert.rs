//! # Conversion
//!
//! Raw numbers to typed values: addresses, states, settings.

use std::net::{IpAddr, Ipv6Addr};

use keepalive_ebpf::{Identity, Mptcp, Settings};

use crate::core::{
    arithmetic::{Effective, jiffies_to_millis},
    event::{Cookie, Endpoint, Family, Keepalive, Origin, Socket, TcpState},
};

pub fn socket(id: u64, cookie: u64, identity: &Identity) -> Socket {
    let (local, peer) = endpoints(identity);
    Socket {
        id,
        cookie: (cookie != 0).then_some(Cookie(cookie)),
        // An unspecified local address of a v6 socket is `::`: the peer decides.
        family: if peer.address.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        },
        local,
        peer,
        state: tcp_state(identity.state),
        netns: identity.netns,
        mptcp: match identity.mptcp {
            Mptcp::No => Some(false),
            Mptcp::Subflow => Some(true),
            Mptcp::Unknown => None,
        },
    }
}

/// The local and the peer end.
pub fn endpoints(identity: &Identity) -> (Endpoint, Endpoint) {
    let local = Endpoint {
        address: address(identity.local),
        port: identity.local_port,
    };
    let peer = Endpoint {
        address: address(identity.peer),
        port: identity.peer_port,
    };
    (local, peer)
}

/// An IPv4-mapped address becomes IPv4.
fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// The settings in force. Without `own_known` a value equal to the sysctl may come from either.
pub fn keepalive(settings: &Settings, enabled: bool, own_known: bool, hz: u32) -> Keepalive {
    let effective = Effective::new(settings, hz);
    let origin = |own: u32, sysctl: u32| match own {
        0 => Some(Origin::Sysctl),
        _ if !own_known && (own == sysctl || sysctl == 0) => None,
        _ => Some(Origin::Socket),
    };
    Keepalive {
        enabled,
        time_ms: jiffies_to_millis(effective.time.into(), hz),
        time_origin: origin(settings.time, settings.sysctl_time),
        interval_ms: jiffies_to_millis(effective.interval.into(), hz),
        interval_origin: origin(settings.interval, settings.sysctl_interval),
        probes: effective.probes,
        probes_origin: origin(settings.probes, settings.sysctl_probes),
        user_timeout_ms: settings.user_timeout.into(),
    }
}

/// `include/net/tcp_states.h`; 13 exists from 6.12 on.
pub fn tcp_state(state: u8) -> TcpState {
    match state {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 => TcpState::SynRecv,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Close,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        12 => TcpState::NewSynRecv,
        13 => TcpState::BoundInactive,
        _ => TcpState::Unknown,
    }
}
