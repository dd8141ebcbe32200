//! # Conversion
//!
//! Raw numbers to typed values: addresses, states, settings.

use std::net::{IpAddr, Ipv6Addr};

use keepalive_ebpf::{Identity, Mptcp, Settings};

use crate::core::{
    arithmetic::{Effective, jiffies_to_millis},
    event::{Cookie, Endpoint, Family, Keepalive, Origin, Socket, TcpState},
    kernel::state,
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

/// The name of a process (`task_struct.comm`), NUL-terminated, as valid UTF-8.
pub fn comm(bytes: &[u8; 16]) -> String {
    let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
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

pub fn tcp_state(number: u8) -> TcpState {
    match number {
        state::ESTABLISHED => TcpState::Established,
        state::SYN_SENT => TcpState::SynSent,
        state::SYN_RECV => TcpState::SynRecv,
        state::FIN_WAIT1 => TcpState::FinWait1,
        state::FIN_WAIT2 => TcpState::FinWait2,
        state::TIME_WAIT => TcpState::TimeWait,
        state::CLOSE => TcpState::Close,
        state::CLOSE_WAIT => TcpState::CloseWait,
        state::LAST_ACK => TcpState::LastAck,
        state::LISTEN => TcpState::Listen,
        state::CLOSING => TcpState::Closing,
        state::NEW_SYN_RECV => TcpState::NewSynRecv,
        state::BOUND_INACTIVE => TcpState::BoundInactive,
        _ => TcpState::Unknown,
    }
}
