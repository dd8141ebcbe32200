//! # The self-test
//!
//! Before any event is believed, the programs read a socket of our own: a loopback connection
//! with options that nobody has by chance. Whatever they read differently from what we set
//! means that the layout is wrong, and the backend is refused. No traffic leaves the host.
//!
//! It also teaches us what the kernel does not tell: its tick (HZ), and the addresses of its timer
//! callbacks, without kallsyms and so also under `kernel.kptr_restrict=2`.

mod sockets;
mod truth;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, TcpStream},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, maps::Array};
use keepalive_ebpf::{Identity, Numbers, Record, SelfTest, Settings, TimerFunctions};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    thread::{UnshareFlags, unshare_unsafe},
};
use zerocopy::{FromBytes, IntoBytes};

pub use self::sockets::{BUFFERS, is_of_a_self_test, is_on_loopback};
use self::truth::Truth;
use crate::machine::{namespace::Namespace, syscall};

const IDLE_SECONDS: u32 = 1234;
const INTERVAL_SECONDS: u32 = 56;
const PROBES: u32 = 7;
const USER_TIMEOUT_MS: u32 = 1_234_567;

/// What the self-test learned.
pub struct Learned {
    /// The kernel's tick, per second.
    pub hz: u32,
    pub functions: TimerFunctions,
    /// Whether the kernel's process ids are those we see in /proc (not so in a pid namespace).
    pub same_pids: bool,
}

type TestMap<'a> = Array<&'a mut aya::maps::MapData, [u8; size_of::<SelfTest>()]>;

/// Runs the test; its two programs must be attached.
///
/// # Errors
/// Names the field that was read wrong, with both values.
pub fn run(ebpf: &mut Ebpf) -> Result<Learned> {
    let map = ebpf
        .map_mut("SELF_TEST")
        .context("the BPF object has no map SELF_TEST")?;
    let mut map: TestMap<'_> = Array::try_from(map)?;
    let map = &mut map;
    let outcome = exercise(map).or_else(|here| {
        // Without a usable loopback here, one in a namespace of its own will do.
        log::debug!("self-test: {here:#}; trying in a network namespace of its own");
        std::thread::scope(|scope| {
            scope
                .spawn(|| enter_new_netns().and_then(|()| exercise(map)))
                .join()
                .map_err(|_| anyhow::anyhow!("the self-test thread panicked"))?
                .context(here)
        })
    });
    let test = read(map)?;
    write(map, &SelfTest::default())?;
    check(&outcome?, &test)
}

/// The system calls: connect, set, send, shut down.
fn exercise(map: &mut TestMap<'_>) -> Result<Truth> {
    let connection = Connection::open(|peer_port, netns| {
        let test = SelfTest {
            peer_port: peer_port.into(),
            netns,
            ..SelfTest::default()
        };
        write(map, &test)
    })?;
    connection.client.shutdown(std::net::Shutdown::Write)?;
    Ok(connection.truth)
}

/// A loopback connection of our own with options that nobody has by chance.
pub struct Connection {
    /// Where it is.
    pub namespace: Namespace,
    truth: Truth,
    client: TcpStream,
    /// Kept open for the client.
    _server: TcpStream,
}

impl Connection {
    /// As [`Connection::open`] in a network namespace of its own, for where loopback is unusable.
    pub fn open_elsewhere() -> Result<Self> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| enter_new_netns().and_then(|()| Self::open(|_, _| Ok(()))))
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Listens, says on which port of which namespace, connects, sets, sends, receives.
    pub fn open(listening: impl FnOnce(u16, u32) -> Result<()>) -> Result<Self> {
        let listener = sockets::listen(Ipv4Addr::LOCALHOST.into())
            .or_else(|_| sockets::listen(Ipv6Addr::LOCALHOST.into()))
            .context("no loopback address to test on")?;
        let peer = listener.local_addr()?;
        let namespace = Namespace::current()?;
        listening(peer.port(), namespace.inode)?;
        let mut client = sockets::connect(peer).context("cannot connect over loopback")?;
        let (mut server, _) = listener.accept()?;
        sockets::switch_on(&client)?;
        // The answer brings the acknowledgement with it: then nothing is in flight.
        client
            .write_all(b"?")
            .context("cannot send over loopback")?;
        server.read_exact(&mut [0])?;
        server
            .write_all(b"!")
            .context("cannot answer over loopback")?;
        client.read_exact(&mut [0])?;
        let truth = Truth::of(&client, namespace.inode)?;
        Ok(Self {
            namespace,
            truth,
            client,
            _server: server,
        })
    }

    /// Whether a socket is one end of this connection.
    pub fn has(&self, id: &Identity) -> bool {
        let ports = (self.truth.local.port(), self.truth.peer.port());
        id.netns == self.truth.netns
            && ((id.local_port, id.peer_port) == ports || (id.peer_port, id.local_port) == ports)
    }

    /// Whether a socket is the end that has the options.
    pub fn is_tested(&self, id: &Identity) -> bool {
        self.has(id) && id.local_port == self.truth.local.port()
    }

    /// Compares what a program read of that end with the truth; the kernel's tick if all is well.
    pub fn check(&self, id: &Identity, settings: &Settings, numbers: &Numbers) -> Result<u32> {
        self.truth.compare(id, settings, numbers)
    }
}

/// Compares what the programs read with the truth.
fn check(truth: &Truth, test: &SelfTest) -> Result<Learned> {
    ensure!(
        test.state_changes > 0,
        "the programs never saw the socket of the self-test"
    );
    let Record {
        id,
        settings,
        after,
        ..
    } = &test.record;
    let hz = truth.compare(id, settings, after)?;
    check_name(&test.record.comm)?;
    // `shutdown` holds the socket's lock.
    ensure!(
        after.owned == 1,
        "wrong kernel layout: sk_lock.owned reads 0, but we own the socket"
    );
    for (timer, function) in [
        ("keepalive", test.keepalive_function),
        ("write", test.write_function),
    ] {
        ensure!(
            function != 0,
            "wrong kernel layout: the {timer} timer is not where it should be"
        );
    }
    ensure!(
        test.keepalive_function != test.write_function,
        "wrong kernel layout: both timers have the same callback"
    );
    Ok(Learned {
        hz,
        functions: TimerFunctions {
            keepalive: test.keepalive_function,
            write: test.write_function,
        },
        same_pids: test.record.tgid == std::process::id(),
    })
}

/// The name of the acting process, against what /proc says of us where it is there.
fn check_name(comm: &[u8; 16]) -> Result<()> {
    let read = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    if let Ok(own) = std::fs::read("/proc/self/comm") {
        ensure!(
            own.strip_suffix(b"\n").unwrap_or(&own) == read,
            "wrong kernel layout: task_struct.comm reads {:?}, but we are {:?}",
            String::from_utf8_lossy(read),
            String::from_utf8_lossy(&own)
        );
    }
    Ok(())
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.client.as_raw_fd()
    }
}

fn enter_new_netns() -> Result<()> {
    // SAFETY: what `unshare_unsafe` warns of is CLONE_FILES, which would give this thread descriptors of its
    // own; CLONE_NEWNET changes the network namespace of this thread and nothing else.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
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

fn read(map: &TestMap<'_>) -> Result<SelfTest> {
    let bytes = map.get(&0, 0)?;
    SelfTest::read_from_bytes(&bytes).map_err(|error| anyhow::anyhow!("SELF_TEST: {error}"))
}

fn write(map: &mut TestMap<'_>, test: &SelfTest) -> Result<()> {
    let mut bytes = [0; size_of::<SelfTest>()];
    bytes.copy_from_slice(test.as_bytes());
    Ok(map.set(0, bytes, 0)?)
}
