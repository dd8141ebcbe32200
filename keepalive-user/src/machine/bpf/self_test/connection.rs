//! The connection under test: brings it into states in which the kernel must have certain values.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpStream},
    os::fd::{AsFd, AsRawFd, RawFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Identity, KernelLayout, Snapshot};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::{
    compare::{self, Reading},
    sockets,
    truth::{After, Truth},
};
use crate::machine::{
    namespace::Namespace,
    syscall::{self, TcpInfo},
};

/// How long closing the window may take; on an idle CPU it takes some microseconds.
const CLOSING: Duration = Duration::from_millis(100);
/// How long the first zero-window probe may take; it is due after 200 ms, or after 400 ms if the window
/// was not completely closed.
const PROBING: Duration = Duration::from_secs(2);

/// How much a self-test verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Only what needs no waiting.
    AtOnce,
    /// Also the fields that the first zero-window probe changes, which the kernel sends after 200 ms.
    FirstProbe,
}

/// A loopback connection of our own, with options that no other connection has by chance.
pub struct Connection {
    /// Its network namespace.
    pub namespace: Namespace,
    pub truth: Truth,
    client: TcpStream,
    /// Kept open for the client.
    server: TcpStream,
}

impl Connection {
    /// As [`Connection::open`], in a new network namespace, where loopback here is unusable.
    pub fn open_elsewhere() -> Result<Self> {
        thread::scope(|scope| {
            scope
                .spawn(|| enter_new_netns().and_then(|()| Self::open(|_, _| Ok(()))))
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Listens, passes the port and the namespace to `listening`, connects, sets the options, sends and
    /// receives.
    pub fn open(listening: impl FnOnce(u16, u32) -> Result<()>) -> Result<Self> {
        let opened = Instant::now();
        let listener = sockets::listen(Ipv4Addr::LOCALHOST.into())
            .or_else(|_| sockets::listen(Ipv6Addr::LOCALHOST.into()))
            .context("no loopback address to test on")?;
        let peer = listener.local_addr()?;
        let namespace = Namespace::current()?;
        listening(peer.port(), namespace.inode)?;
        let mut client = sockets::connect(peer).context("cannot connect over loopback")?;
        let (mut server, _) = listener.accept()?;
        sockets::switch_on(&client)?;
        client
            .write_all(b"?")
            .context("cannot send over loopback")?;
        server.read_exact(&mut [0])?;
        answer(&mut server, &mut client)?;
        let truth = Truth::of(&client, namespace.inode, opened)?;
        Ok(Self {
            namespace,
            truth,
            client,
            server,
        })
    }

    /// Sends until the peer's window is closed: with nothing in flight and data unsent the kernel must have
    /// armed the timer of zero-window probes. False if the window does not close.
    pub fn close_window(&mut self, depth: Depth) -> Result<bool> {
        let begin = Instant::now();
        self.fill().context("cannot send over loopback")?;
        let is_closed = |info: &TcpInfo| info.tcpi_unacked == 0 && info.tcpi_notsent_bytes > 0;
        while !is_closed(&self.info()?) {
            if begin.elapsed() > CLOSING {
                return Ok(false);
            }
            answer(&mut self.server, &mut self.client)?;
        }
        let is_probed = |info: &TcpInfo| is_closed(info) && info.tcpi_backoff > 0;
        while depth == Depth::FirstProbe && !is_probed(&self.info()?) {
            if begin.elapsed() > PROBING {
                log::debug!("self-test: no zero-window probe within {PROBING:?}");
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.truth.ask_again(self.client.as_fd(), begin)?;
        Ok(is_closed(&self.truth.info))
    }

    /// Writes until the send buffer, of some kilobytes, is full as well.
    fn fill(&mut self) -> io::Result<()> {
        const MOST: usize = 1 << 20;
        let piece = [0; 1 << 14];
        self.client.set_nonblocking(true)?;
        let mut sent = 0;
        while sent < MOST {
            match self.client.write(&piece) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.client.set_nonblocking(false)
    }

    /// Shuts the socket down, which runs the programs, and returns the kernel's report afterwards.
    pub fn shut_down(&self) -> Result<After> {
        self.client.shutdown(Shutdown::Write)?;
        After::of(self.client.as_fd())
    }

    fn info(&self) -> Result<TcpInfo> {
        syscall::tcp_info(self.client.as_fd()).context("TCP_INFO")
    }

    /// The descriptor of the tested end, and the inode of its file.
    pub fn file(&self) -> (RawFd, u64) {
        (self.client.as_raw_fd(), self.truth.inode)
    }

    /// Whether a socket is one end of this connection.
    fn has(&self, id: &Identity) -> bool {
        let ports = (self.truth.local.port(), self.truth.peer.port());
        id.netns == self.truth.netns
            && ((id.local_port, id.peer_port) == ports || (id.peer_port, id.local_port) == ports)
    }

    /// Whether a socket is the end that has the options.
    pub fn is_tested(&self, id: &Identity) -> bool {
        self.has(id) && id.local_port == self.truth.local.port()
    }

    /// Compares the iterator's record of the tested end with the truth; returns the kernel's tick.
    ///
    /// # Errors
    /// Names the first field that was read wrong, with both values.
    pub fn check(&self, listed: &Snapshot, layout: &KernelLayout) -> Result<u32> {
        let reading = Reading {
            id: &listed.id,
            settings: &listed.settings,
            sample: &listed.sample,
            write_expires: listed.write_expires,
        };
        let after = After::of(self.client.as_fd())?;
        let hz = compare::socket(&self.truth, &after, layout, &reading)?;
        compare::same("sk_shutdown", listed.id.shutdown, 0_u8)?;
        compare::same("rcv_nxt - copied_seq", listed.receive_queue, 0_u32)?;
        compare::same("write_seq - snd_una", listed.send_queue, 0_u32)?;
        Ok(hz)
    }
}

/// Sends a byte back, which carries the acknowledgement of all received data: a separate ACK may be
/// delayed for 40 ms.
fn answer(server: &mut TcpStream, client: &mut TcpStream) -> Result<()> {
    server
        .write_all(b"!")
        .context("cannot answer over loopback")?;
    Ok(client.read_exact(&mut [0])?)
}

/// Moves the calling thread into a new network namespace and sets its loopback up.
pub fn enter_new_netns() -> Result<()> {
    // SAFETY: `unshare_unsafe` warns of CLONE_FILES, which would give this thread a descriptor table of its
    // own; CLONE_NEWNET changes the network namespace of this thread and nothing else.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    // `bpf::reason` finds the errno in an `io::Error`.
    let unshared = unshared.map_err(io::Error::from);
    unshared.context("cannot make a network namespace")?;
    socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(Into::into)
    .and_then(|socket| syscall::bring_up_loopback(socket.as_fd()))
    .context("cannot bring up loopback")
}
