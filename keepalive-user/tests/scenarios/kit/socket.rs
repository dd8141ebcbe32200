//! TCP sockets and connected pairs, with the operations that keepalive scenarios need.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Protocol, SocketFlags, SocketType, ipproto, sockopt};

use crate::kit::sys;

/// More than the server with the small receive buffer accepts, so that data stays unsent.
const NARROW_SENDER: usize = 32 << 10;
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

    /// The given idle time in seconds, then nine probes, one every second.
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

impl AsFd for Tcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Tcp {
    fn as_raw_fd(&self) -> c_int {
        self.0.as_raw_fd()
    }
}

impl Tcp {
    /// An unconnected socket for this kind of address.
    pub fn new(address: IpAddr) -> Result<Self> {
        Self::with_protocol(address, ipproto::TCP)
    }

    /// An unconnected MPTCP socket; the errno shows whether the kernel supports MPTCP.
    pub fn new_mptcp(address: IpAddr) -> Result<Self> {
        Self::with_protocol(address, ipproto::MPTCP)
    }

    fn with_protocol(address: IpAddr, protocol: Protocol) -> Result<Self> {
        let family = match address {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let fd = sys::socket(family, SocketType::STREAM, Some(protocol)).context("socket")?;
        Ok(Self(TcpStream::from(fd)))
    }

    /// Binds to any free port of `address`.
    pub fn bind(&self, address: IpAddr) -> Result<()> {
        self.bind_to(SocketAddr::new(address, 0))
    }

    pub fn bind_to(&self, address: SocketAddr) -> Result<()> {
        net::bind(self, &address).context("bind")
    }

    /// Binds to any free port of `address` and listens.
    pub fn listen(&self, address: IpAddr) -> Result<()> {
        self.bind(address)?;
        net::listen(self, 4096).context("listen")
    }

    pub fn connect(&self, to: SocketAddr) -> Result<()> {
        net::connect(self, &to)
            .map_err(io::Error::from)
            .with_context(|| format!("connect to {to}"))
    }

    /// Starts a non-blocking connect and does not wait for it.
    pub fn begin_to_connect(&self, to: SocketAddr) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let error = net::connect(self, &to).err().context("connected at once")?;
        ensure!(error == Errno::INPROGRESS, "connect to {to}: {error}");
        Ok(())
    }

    pub fn accept(&self) -> Result<Self> {
        let fd = net::accept_with(self, SocketFlags::CLOEXEC).context("accept")?;
        Ok(Self(TcpStream::from(fd)))
    }

    pub fn local(&self) -> Result<SocketAddr> {
        self.0.local_addr().context("getsockname")
    }

    pub fn peer(&self) -> Result<SocketAddr> {
        self.0.peer_addr().context("getpeername")
    }

    /// The kernel's cookie in the format of events. SO_COOKIE makes the kernel assign one.
    pub fn cookie(&self) -> Result<String> {
        let cookie = sockopt::socket_cookie(self).context("SO_COOKIE")?;
        Ok(format!("{cookie:x}"))
    }

    /// Sets the values first and switches keepalive on last, so that the timer is armed once.
    pub fn arm(&self, keepalive: Keepalive) -> Result<()> {
        self.set_times(keepalive)?;
        self.switch_keepalive(true)
    }

    /// Sets only the values, which arms no timer while keepalive is off.
    pub fn set_times(&self, keepalive: Keepalive) -> Result<()> {
        self.set_idle(keepalive.idle)?;
        sockopt::set_tcp_keepintvl(self, seconds(keepalive.interval)).context("TCP_KEEPINTVL")?;
        sockopt::set_tcp_keepcnt(self, keepalive.probes).context("TCP_KEEPCNT")?;
        if keepalive.user_timeout_ms > 0 {
            self.set_user_timeout_ms(keepalive.user_timeout_ms)?;
        }
        Ok(())
    }

    pub fn switch_keepalive(&self, on: bool) -> Result<()> {
        sockopt::set_socket_keepalive(self, on).context("SO_KEEPALIVE")
    }

    pub fn set_idle(&self, idle: u32) -> Result<()> {
        sockopt::set_tcp_keepidle(self, seconds(idle)).context("TCP_KEEPIDLE")
    }

    pub fn set_user_timeout_ms(&self, milliseconds: u32) -> Result<()> {
        sockopt::set_tcp_user_timeout(self, milliseconds).context("TCP_USER_TIMEOUT")
    }

    /// How long an orphan stays in FIN_WAIT2, seconds.
    pub fn set_linger2(&self, seconds: u32) -> Result<()> {
        sys::set_option(self, libc::IPPROTO_TCP, libc::TCP_LINGER2, seconds).context("TCP_LINGER2")
    }

    pub fn set_receive_buffer(&self, bytes: usize) -> Result<()> {
        sockopt::set_socket_recv_buffer_size(self, bytes).context("SO_RCVBUF")
    }

    pub fn set_send_buffer(&self, bytes: usize) -> Result<()> {
        sockopt::set_socket_send_buffer_size(self, bytes).context("SO_SNDBUF")
    }

    /// Ignores net.core.rmem_max, which needs CAP_NET_ADMIN.
    pub fn force_receive_buffer(&self, bytes: usize) -> Result<()> {
        sockopt::set_socket_recv_buffer_size_force(self, bytes).context("SO_RCVBUFFORCE")
    }

    /// Makes this socket a dead peer: a socket filter drops every segment in tcp_filter, before TCP
    /// processes it, so it answers nothing and sends no RST.
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

    /// Closes without a FIN or RST, as if the host had rebooted: the next segment finds no socket
    /// and is answered by a RST.
    pub fn vanish(self) -> Result<()> {
        sys::set_option(&self.0, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1).context("TCP_REPAIR")
    }

    /// Closes with a reset.
    pub fn abort(self) -> Result<()> {
        self.reset_on_close()
    }

    /// Makes close, or the exit of its process, send a RST, so that no orphan remains until its
    /// TCP_USER_TIMEOUT.
    pub fn reset_on_close(&self) -> Result<()> {
        sockopt::set_socket_linger(self, Some(Duration::ZERO)).context("SO_LINGER")
    }

    /// Sends FIN and keeps the socket.
    pub fn finish(&self) -> Result<()> {
        self.0.shutdown(Shutdown::Write).context("shutdown")
    }

    pub fn send(&self, data: &[u8]) -> Result<()> {
        (&self.0).write_all(data).context("send")
    }

    /// Receives exactly this many bytes.
    pub fn receive(&self, bytes: usize) -> Result<()> {
        let mut buffer = vec![0; bytes];
        (&self.0).read_exact(&mut buffer).context("receive")
    }

    /// Reads until no data has arrived for a moment.
    pub fn drain(&self) -> Result<()> {
        let mut buffer = vec![0; 65536];
        while sys::readable(self, Duration::from_millis(300))? {
            if (&self.0).read(&mut buffer).context("drain")? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Writes until the kernel accepts no more data.
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

    /// Copies the receive queue without consuming it: the kernel holds the socket lock meanwhile.
    pub fn peek(&self, buffer: &mut [u8]) -> Result<usize> {
        self.0.peek(buffer).context("peek")
    }

    /// The error that ends a blocking read.
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
    /// The end that connected: scenarios trace this one.
    pub client: Tcp,
    /// Its peer.
    pub server: Tcp,
    /// Kept open, so that late segments find a listener unless the scenario closes it.
    _listener: Tcp,
}

impl Pair {
    /// A connection over the loopback.
    pub fn over(address: IpAddr) -> Result<Self> {
        Self::from(Tcp::new(address)?, Tcp::new(address)?, address, address)
    }

    /// A connection whose server has a small receive buffer, so that its window closes soon.
    pub fn with_narrow_server() -> Result<Self> {
        let listener = Tcp::new(LOCALHOST)?;
        listener.set_receive_buffer(4096)?;
        // The client's send buffer is small too: it is full long before the first zero-window
        // probe.
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
            "accepted the connection of another client"
        );
        Ok(Self {
            client,
            server,
            _listener: listener,
        })
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
