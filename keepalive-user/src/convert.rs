//! Raw numbers to typed values: addresses, states, settings.

use std::net::{IpAddr, Ipv6Addr};

use keepalive_ebpf::{Identity, Record};

use crate::{
    arithmetic::{Effective, jiffies_to_millis},
    event::{Endpoint, Family, Keepalive, Origin, Socket, TcpState},
};

pub fn socket(id: u64, cookie: u64, identity: &Identity) -> Socket {
    let local = address(identity.local);
    let peer = address(identity.peer);
    Socket {
        id,
        cookie: (cookie != 0).then(|| format!("{cookie:x}")),
        // An unspecified local address of a v6 socket is `::`: the peer decides.
        family: if peer.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        },
        local: Endpoint {
            address: local,
            port: identity.local_port,
        },
        peer: Endpoint {
            address: peer,
            port: identity.peer_port,
        },
        state: tcp_state(identity.state),
        netns: identity.netns,
        mptcp: match identity.mptcp {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
    }
}

/// IPv4-mapped is IPv4.
fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

pub fn keepalive(record: &Record, hz: u32) -> Keepalive {
    let effective = Effective::of(record, hz);
    let settings = &record.settings;
    let origin = |own: u32| {
        if own == 0 {
            Origin::Sysctl
        } else {
            Origin::Socket
        }
    };
    Keepalive {
        enabled: record.id.keepopen != 0,
        time_ms: jiffies_to_millis(effective.time.into(), hz),
        time_origin: origin(settings.time),
        interval_ms: jiffies_to_millis(effective.interval.into(), hz),
        interval_origin: origin(settings.interval),
        probes: effective.probes,
        probes_origin: origin(settings.probes),
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
