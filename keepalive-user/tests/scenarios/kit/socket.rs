//! TCP sockets with everything a keepalive scenario does to them, and pairs of them.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

use crate::kit::sys;

const TCP_REPAIR: c_int = 19;
const IPPROTO_MPTCP: c_int = 262;
const SO_COOKIE: c_int = 57;
/// More than the narrow server takes, so that something waits.
const NARROW_SENDER: c_int = 32 << 10;
/// Bytes written and not sent yet.
const SIOCOUTQNSD: libc::Ioctl = 0x894B;

pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const LOCALHOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// How keepalive is set on a socket: seconds, seconds, count, and TCP_USER_TIMEOUT in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    pub idle: u32,
    pub interval: u32,
    pub probes: u32,
    pub user_timeout_ms: u32,
}

impl Keepalive {
    /// The fastest the kernel allows.
    pub const EVERY_SECOND: Self = Self::after(1);

    /// Idle for so many seconds, then every second, nine times.
    pub const fn after(idle: u32) -> Self {
        Self {
            idle,
            interval: 1,
            probes: 9,
            user_timeout_ms: 0,
        }
    }

    pub const fn probes(self, probes: u32) -> Self {
        Self { probes, ..self }
    }

    pub const fn interval(self, interval: u32) -> Self {
        Self { interval, ..self }
    }

    pub const fn user_timeout_ms(self, user_timeout_ms: u32) -> Self {
        Self {
            user_timeout_ms,
            ..self
        }
    }
}

/// One TCP socket.
#[derive(Debug)]
pub struct Tcp(TcpStream);

impl AsRawFd for Tcp {
    fn as_raw_fd(&self) -> c_int {
        self.0.as_raw_fd()
    }
}

impl Tcp {
    /// An unconnected socket for this kind of address.
    pub fn new(address: IpAddr) -> Result<Self> {
        Self::with_protocol(address, libc::IPPROTO_TCP)
    }

    /// An unconnected MPTCP socket; its error says whether the kernel has MPTCP.
    pub fn new_mptcp(address: IpAddr) -> Result<Self> {
        Self::with_protocol(address, IPPROTO_MPTCP)
    }

    fn with_protocol(address: IpAddr, protocol: c_int) -> Result<Self> {
        let family = match address {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let fd = sys::socket(family, libc::SOCK_STREAM, protocol).context("socket")?;
        Ok(Self(TcpStream::from(fd)))
    }

    /// Binds to any free port of `address`.
    pub fn bind(&self, address: IpAddr) -> Result<()> {
        self.bind_to(SocketAddr::new(address, 0))
    }

    pub fn bind_to(&self, address: SocketAddr) -> Result<()> {
        let (storage, length) = raw_address(address);
        // SAFETY: the pointer and the length describe `storage`, which outlives the call.
        sys::check(unsafe { libc::bind(self.as_raw_fd(), (&raw const storage).cast(), length) })
            .context("bind")?;
        Ok(())
    }

    /// Binds to any free port of `address` and listens.
    pub fn listen(&self, address: IpAddr) -> Result<()> {
        self.bind(address)?;
        // SAFETY: takes no pointers.
        sys::check(unsafe { libc::listen(self.as_raw_fd(), 4096) }).context("listen")?;
        Ok(())
    }

    pub fn connect(&self, to: SocketAddr) -> Result<()> {
        let (storage, length) = raw_address(to);
        // SAFETY: the pointer and the length describe `storage`, which outlives the call.
        sys::check(unsafe { libc::connect(self.as_raw_fd(), (&raw const storage).cast(), length) })
            .with_context(|| format!("connect to {to}"))?;
        Ok(())
    }

    /// Begins to connect, and leaves it at that.
    pub fn begin_to_connect(&self, to: SocketAddr) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let error = self.connect(to).err().context("connected at once")?;
        let errno = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error);
        ensure!(errno == Some(libc::EINPROGRESS), "{error:#}");
        Ok(())
    }

    pub fn accept(&self) -> Result<Self> {
        // SAFETY: null address pointers are allowed: the caller does not want the address.
        let fd = sys::check(unsafe {
            libc::accept4(
                self.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )
        })
        .context("accept")?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        Ok(Self(TcpStream::from(fd)))
    }

    pub fn local(&self) -> Result<SocketAddr> {
        self.0.local_addr().context("getsockname")
    }

    pub fn peer(&self) -> Result<SocketAddr> {
        self.0.peer_addr().context("getpeername")
    }

    /// The kernel's cookie as events write it. Asking makes the kernel give the socket one.
    pub fn cookie(&self) -> Result<String> {
        let cookie: u64 =
            sys::get_option(self, libc::SOL_SOCKET, SO_COOKIE).context("SO_COOKIE")?;
        Ok(format!("{cookie:x}"))
    }

    /// Sets the numbers first and switches keepalive on last: one arming.
    pub fn arm(&self, keepalive: Keepalive) -> Result<()> {
        self.set_times(keepalive)?;
        self.switch_keepalive(true)
    }

    /// Sets the numbers alone, which arms nothing while keepalive is off.
    pub fn set_times(&self, keepalive: Keepalive) -> Result<()> {
        self.set_idle(keepalive.idle)?;
        self.tcp_option(libc::TCP_KEEPINTVL, keepalive.interval)?;
        self.tcp_option(libc::TCP_KEEPCNT, keepalive.probes)?;
        if keepalive.user_timeout_ms > 0 {
            self.tcp_option(libc::TCP_USER_TIMEOUT, keepalive.user_timeout_ms)?;
        }
        Ok(())
    }

    pub fn switch_keepalive(&self, on: bool) -> Result<()> {
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_KEEPALIVE, c_int::from(on))
            .context("SO_KEEPALIVE")
    }

    pub fn set_idle(&self, seconds: u32) -> Result<()> {
        self.tcp_option(libc::TCP_KEEPIDLE, seconds)
    }

    pub fn set_user_timeout_ms(&self, milliseconds: u32) -> Result<()> {
        self.tcp_option(libc::TCP_USER_TIMEOUT, milliseconds)
    }

    /// How long an orphan stays in FIN_WAIT2, seconds.
    pub fn set_linger2(&self, seconds: u32) -> Result<()> {
        self.tcp_option(libc::TCP_LINGER2, seconds)
    }

    pub fn set_receive_buffer(&self, bytes: c_int) -> Result<()> {
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes).context("SO_RCVBUF")
    }

    pub fn set_send_buffer(&self, bytes: c_int) -> Result<()> {
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes).context("SO_SNDBUF")
    }

    /// Beyond the system's limit, which takes CAP_NET_ADMIN.
    pub fn force_receive_buffer(&self, bytes: c_int) -> Result<()> {
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            .context("SO_RCVBUFFORCE")
    }

    fn tcp_option(&self, name: c_int, value: u32) -> Result<()> {
        sys::set_option(self, libc::IPPROTO_TCP, name, value)
            .with_context(|| format!("TCP option {name} = {value}"))
    }

    /// Makes this socket deaf and mute: the kernel drops every segment that arrives for it
    /// before TCP looks at it, so it answers nothing, not even by a reset.
    pub fn deafen(&self) -> Result<()> {
        let mut drop_all = libc::sock_filter {
            code: 0x06, // BPF_RET | BPF_K: pass 0 bytes
            jt: 0,
            jf: 0,
            k: 0,
        };
        let program = libc::sock_fprog {
            len: 1,
            filter: &raw mut drop_all,
        };
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
            .context("SO_ATTACH_FILTER")
    }

    /// Undoes [`Tcp::deafen`].
    pub fn hear(&self) -> Result<()> {
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0_i32)
            .context("SO_DETACH_FILTER")
    }

    /// Closes without a word to the peer, as if the host had rebooted: the next segment meets no
    /// socket and is answered by a reset.
    pub fn vanish(self) -> Result<()> {
        self.tcp_option(TCP_REPAIR, 1)
    }

    /// Closes with a reset.
    pub fn abort(self) -> Result<()> {
        self.reset_on_close()
    }

    /// Makes its close, or the end of its process, a reset: no orphan stays for its user timeout.
    pub fn reset_on_close(&self) -> Result<()> {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        sys::set_option(self, libc::SOL_SOCKET, libc::SO_LINGER, linger).context("SO_LINGER")
    }

    /// Sends FIN and keeps the socket.
    pub fn finish(&self) -> Result<()> {
        self.0.shutdown(Shutdown::Write).context("shutdown")
    }

    pub fn send(&self, data: &[u8]) -> Result<()> {
        (&self.0).write_all(data).context("send")
    }

    /// Receives exactly so many bytes.
    pub fn receive(&self, bytes: usize) -> Result<()> {
        let mut buffer = vec![0; bytes];
        (&self.0).read_exact(&mut buffer).context("receive")
    }

    /// Reads until nothing has come for a moment.
    pub fn drain(&self) -> Result<()> {
        let mut buffer = vec![0; 65536];
        while sys::readable(self.as_raw_fd(), std::time::Duration::from_millis(300))? {
            if (&self.0).read(&mut buffer).context("drain")? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Writes until the kernel takes no more.
    pub fn fill(&self) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let block = vec![b'x'; 65536];
        let result = loop {
            match (&self.0).write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.0.set_nonblocking(false)?;
        result.context("fill")
    }

    /// Copies what waits in the receive queue, without taking it: the kernel holds the socket's
    /// lock all the while.
    pub fn peek(&self, buffer: &mut [u8]) -> Result<usize> {
        self.0.peek(buffer).context("peek")
    }

    /// The error a blocking read ends in.
    pub fn failure(&self) -> Result<io::Error> {
        let mut buffer = [0; 16];
        match (&self.0).read(&mut buffer) {
            Ok(bytes) => anyhow::bail!("read gave {bytes} bytes instead of an error"),
            Err(error) => Ok(error),
        }
    }

    /// TCP_INFO.
    pub fn info(&self) -> Result<libc::tcp_info> {
        sys::get_option(self, libc::IPPROTO_TCP, libc::TCP_INFO).context("TCP_INFO")
    }

    /// Bytes written and not sent yet.
    pub fn unsent(&self) -> Result<u64> {
        let unsent = sys::ioctl_int(self, SIOCOUTQNSD).context("SIOCOUTQNSD")?;
        Ok(unsent as u64)
    }
}

/// A connection with both ends in this process.
pub struct Pair {
    /// The end that connected: the one scenarios watch.
    pub client: Tcp,
    /// Its peer.
    pub server: Tcp,
    /// Kept so that late segments meet a listener only where a scenario wants that.
    _listener: Tcp,
}

impl Pair {
    /// A connection over the loopback.
    pub fn over(address: IpAddr) -> Result<Self> {
        Self::from(Tcp::new(address)?, Tcp::new(address)?, address, address)
    }

    /// A connection whose server can take little data before its window closes.
    pub fn with_narrow_server() -> Result<Self> {
        let listener = Tcp::new(LOCALHOST)?;
        listener.set_receive_buffer(4096)?;
        // It takes little either: filled within a moment, long before the first zero-window probe.
        let client = Tcp::new(LOCALHOST)?;
        client.set_send_buffer(NARROW_SENDER)?;
        Self::from(client, listener, LOCALHOST, LOCALHOST)
    }

    /// Connects a prepared client to a prepared listener.
    pub fn from(client: Tcp, listener: Tcp, bind: IpAddr, connect: IpAddr) -> Result<Self> {
        listener.listen(bind)?;
        let port = listener.local()?.port();
        client.connect(SocketAddr::new(connect, port))?;
        let server = listener.accept()?;
        ensure!(
            server.peer()?.port() == client.local()?.port(),
            "accepted somebody else's connection"
        );
        Ok(Self {
            client,
            server,
            _listener: listener,
        })
    }
}

/// The C form of an address.
fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}
