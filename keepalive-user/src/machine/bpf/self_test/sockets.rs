//! The sockets of self-tests, ours and those of other running instances: creates and recognizes them.
//! No output shows them.
//!
//! Each has, from before it is bound or connected, options that no other socket has by chance, and only
//! loopback addresses; an accepted socket inherits the options from its listener. A process that sets the
//! same options hides its connection, but only one that never leaves this host.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use keepalive_ebpf::{Identity, Settings};
use rustix::net::{
    self, AddressFamily, SocketFlags, SocketType, socket_with,
    sockopt::{self, Timeout},
};

use super::{IDLE_SECONDS, INTERVAL_SECONDS, PROBES, USER_TIMEOUT_MS};
use crate::{core::kernel::state, machine::syscall};

/// The value of SO_RCVBUF and SO_SNDBUF. sock_diag reports twice this value, to every user, and none of
/// the other options.
const RECEIVE_BUFFER: u32 = 12_345;
const SEND_BUFFER: u32 = 12_321;
/// As sock_diag reports them.
pub const BUFFERS: (u32, u32) = (2 * RECEIVE_BUFFER, 2 * SEND_BUFFER);
/// Differs from the default, and from any round number of seconds.
const LONGEST_RTO_MS: u32 = 98_765;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1;

/// Whether a socket belongs to a self-test, by the settings that a program read of it. It works with
/// every tick length.
pub fn is_of_a_self_test(id: &Identity, settings: &Settings) -> bool {
    let hz = settings.time / IDLE_SECONDS;
    settings.user_timeout == USER_TIMEOUT_MS
        && settings.probes == PROBES
        && (1..=10_000).contains(&hz)
        && settings.time == hz * IDLE_SECONDS
        && settings.interval == hz * INTERVAL_SECONDS
        && is_on_loopback(id)
}

/// Whether both ends of a socket are on this host's loopback; for a listener only its own address counts.
pub fn is_on_loopback(id: &Identity) -> bool {
    let is_loopback = |address: [u8; 16]| {
        let address = Ipv6Addr::from(address).to_canonical();
        address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
    };
    is_loopback(id.local) && (id.state == state::LISTEN || is_loopback(id.peer))
}

/// Listens on a free port.
pub fn listen(address: IpAddr) -> io::Result<TcpListener> {
    let socket = marked(address)?;
    net::bind(&socket, &SocketAddr::new(address, 0))?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Connects, or gives up after two seconds.
pub fn connect(peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = marked(peer.ip())?;
    // Also how long connect(2) waits.
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(Duration::from_secs(2)))?;
    net::connect(&socket, &peer)?;
    Ok(socket.into())
}

/// Switches keepalive on as the last option, so that records of the socket have all options.
pub fn switch_on(socket: &TcpStream) -> io::Result<()> {
    Ok(sockopt::set_socket_keepalive(socket, true)?)
}

/// A socket with all options but SO_KEEPALIVE.
fn marked(address: IpAddr) -> io::Result<OwnedFd> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER as usize)?;
    sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER as usize)?;
    // Closing sends a RST: nothing stays in TIME_WAIT.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_keepintvl(&socket, seconds(INTERVAL_SECONDS))?;
    sockopt::set_tcp_keepcnt(&socket, PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
    sockopt::set_tcp_keepidle(&socket, seconds(IDLE_SECONDS))?;
    // Another congestion control may pace segments and so leave data unsent although the window is open. The
    // call fails where net.ipv4.tcp_allowed_congestion_control excludes reno for unprivileged users.
    let _ = sockopt::set_tcp_congestion(&socket, "reno");
    // Before 6.15 there is no such option.
    let _ = syscall::set_tcp_rto_max(socket.as_fd(), LONGEST_RTO_MS);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_all_options_on_loopback_are_a_self_test() {
        let loopback = Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets();
        let id = Identity {
            local: loopback,
            peer: loopback,
            state: 1,
            ..Identity::default()
        };
        let of = |hz: u32| Settings {
            time: hz * IDLE_SECONDS,
            interval: hz * INTERVAL_SECONDS,
            probes: PROBES,
            user_timeout: USER_TIMEOUT_MS,
            ..Settings::default()
        };
        for hz in [100, 250, 300, 1000, 1024] {
            assert!(is_of_a_self_test(&id, &of(hz)), "{hz}");
        }
        let others: [fn(&mut Settings); 5] = [
            |it| it.time += 1,
            |it| it.interval = 75,
            |it| it.probes = 9,
            |it| it.user_timeout = 0,
            |it| *it = Settings::default(),
        ];
        for spoil in others {
            let mut settings = of(250);
            spoil(&mut settings);
            assert!(!is_of_a_self_test(&id, &settings), "{settings:?}");
        }
        let elsewhere = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
        for (local, peer) in [(elsewhere, loopback), (loopback, elsewhere)] {
            let id = Identity { local, peer, ..id };
            assert!(!is_of_a_self_test(&id, &of(250)));
        }
        let listener = Identity {
            peer: [0; 16],
            state: state::LISTEN,
            ..id
        };
        assert!(is_of_a_self_test(&listener, &of(250)));
    }
}
