//! The sockets of self-tests, ours and those of other running instances: how they are made, and how
//! they are recognized. Nothing that observes sockets shows them.
//!
//! Each has, from before it is bound or connected, options that no socket has by chance, and only
//! loopback addresses; what is accepted inherits them from its listener. Who sets the same options
//! hides a connection, but only one that never leaves this host.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use keepalive_ebpf::{Identity, Settings};

use super::{IDLE_SECONDS, INTERVAL_SECONDS, PROBES, USER_TIMEOUT_MS};
use crate::core::numbers::state;

/// What SO_RCVBUF and SO_SNDBUF are set to. sock_diag reports twice that, to everyone, and none of the
/// other options.
const RECEIVE_BUFFER: u32 = 12_345;
const SEND_BUFFER: u32 = 12_321;
/// As sock_diag reports them.
pub const BUFFERS: (u32, u32) = (2 * RECEIVE_BUFFER, 2 * SEND_BUFFER);
/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 1;

/// Whether a socket is one of a self-test, by the settings that a program read of it. Ticks may be of
/// any length.
pub fn is_of_a_self_test(id: &Identity, settings: &Settings) -> bool {
    let hz = settings.time / IDLE_SECONDS;
    settings.user_timeout == USER_TIMEOUT_MS
        && settings.probes == PROBES
        && (1..=10_000).contains(&hz)
        && settings.time == hz * IDLE_SECONDS
        && settings.interval == hz * INTERVAL_SECONDS
        && is_on_loopback(id)
}

/// Whether both ends of a socket are on this host's loopback; a listener has one end.
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
    let (address, length) = encoded(SocketAddr::new(address, 0));
    // SAFETY: the pointer and length are those of `address`.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket.into())
}

/// Connects, or gives up after two seconds.
pub fn connect(peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = marked(peer.ip())?;
    let fd = socket.as_raw_fd();
    let patience = libc::timeval {
        tv_sec: 2,
        tv_usec: 0,
    };
    // Also how long connect(2) waits.
    set(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &patience)?;
    let (address, length) = encoded(peer);
    // SAFETY: the pointer and length are those of `address`.
    check(unsafe { libc::connect(fd, (&raw const address).cast(), length) })?;
    Ok(socket.into())
}

/// Switches keepalive on, last of all: what is reported of the socket has all the other options.
pub fn switch_on(socket: &TcpStream) -> io::Result<()> {
    set(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1)
}

/// A socket with all options but SO_KEEPALIVE.
fn marked(address: IpAddr) -> io::Result<OwnedFd> {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: new, and owned by no one else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let tcp = |name, value: u32| set(fd, libc::IPPROTO_TCP, name, &value);
    set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER)?;
    set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER)?;
    // Closing sends a RST: nothing stays in TIME_WAIT.
    let abort = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &abort)?;
    tcp(libc::TCP_KEEPINTVL, INTERVAL_SECONDS)?;
    tcp(libc::TCP_KEEPCNT, PROBES)?;
    tcp(libc::TCP_USER_TIMEOUT, USER_TIMEOUT_MS)?;
    tcp(libc::TCP_KEEPIDLE, IDLE_SECONDS)?;
    Ok(socket)
}

/// As the kernel takes it.
fn encoded(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: all-zero is an address; the IPv4 one is smaller, and written over its beginning.
    unsafe {
        let mut out: libc::sockaddr_in6 = std::mem::zeroed();
        match address {
            SocketAddr::V4(v4) => {
                let encoded = &raw mut out;
                let encoded = encoded.cast::<libc::sockaddr_in>();
                (*encoded).sin_family = libc::AF_INET as libc::sa_family_t;
                (*encoded).sin_port = v4.port().to_be();
                (*encoded).sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                (out, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                out.sin6_port = v6.port().to_be();
                out.sin6_addr.s6_addr = v6.ip().octets();
                (out, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }
}

fn set<T>(fd: RawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and length are those of `value`.
    check(unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
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
