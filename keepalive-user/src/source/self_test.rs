//! # The self-test
//!
//! Before any event is believed, the programs read a socket of our own: a loopback connection
//! with options that nobody has by chance. Whatever they read differently from what we set
//! means that the layout is wrong, and the backend is refused. No traffic leaves the host.
//!
//! It also teaches us what the kernel does not tell: its tick (HZ), and the addresses of its timer
//! callbacks, without kallsyms and so also under `kernel.kptr_restrict=2`.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, maps::Array};
use keepalive_ebpf::{Identity, Numbers, Record, SelfTest, Settings, TimerFunctions};
use zerocopy::{FromBytes, IntoBytes};

use crate::namespace::Namespace;

const IDLE_SECONDS: u32 = 1234;
const INTERVAL_SECONDS: u32 = 56;
const PROBES: u32 = 7;
const USER_TIMEOUT_MS: u32 = 1_234_567;
/// The state when `shutdown` is about to change it, which is when the socket is read.
const ESTABLISHED: u8 = 1;

/// What the self-test learned.
pub struct Learned {
    /// The kernel's tick, per second.
    pub hz: u32,
    pub functions: TimerFunctions,
    /// Cookie of the socket under test, whose end is nobody's business.
    pub cookie: u64,
    /// Whether the kernel's process ids are those we see in /proc (not so in a pid namespace).
    pub same_pids: bool,
}

/// What we know about the socket without BPF.
struct Truth {
    local: SocketAddr,
    peer: SocketAddr,
    cookie: u64,
    inode: u64,
    netns: u32,
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
    let outcome = exercise(&mut map).or_else(|here| {
        // Without a usable loopback here, one in a namespace of its own will do.
        log::debug!("self-test: {here:#}; trying in a network namespace of its own");
        std::thread::scope(|scope| {
            scope
                .spawn(|| enter_new_netns().and_then(|()| exercise(&mut map)))
                .join()
                .map_err(|_| anyhow::anyhow!("the self-test thread panicked"))?
                .context(here)
        })
    });
    let test = read(&map)?;
    write(&mut map, &SelfTest::default())?;
    check(&outcome?, &test)
}

/// The system calls: connect, set, send, shut down.
fn exercise(map: &mut TestMap<'_>) -> Result<Truth> {
    let connection = Connection::open(|peer_port| {
        write(
            map,
            &SelfTest {
                peer_port: peer_port.into(),
                ..SelfTest::default()
            },
        )
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
                .spawn(|| enter_new_netns().and_then(|()| Self::open(|_| Ok(()))))
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Listens, says on which port, connects, sets, sends.
    pub fn open(listening: impl FnOnce(u16) -> Result<()>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .or_else(|_| TcpListener::bind(("::1", 0)))
            .context("no loopback address to test on")?;
        let peer = listener.local_addr()?;
        listening(peer.port())?;
        let mut client = TcpStream::connect_timeout(&peer, Duration::from_secs(2))
            .context("cannot connect over loopback")?;
        let (mut server, _) = listener.accept()?;
        let fd = client.as_raw_fd();
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, IDLE_SECONDS)?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, INTERVAL_SECONDS)?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, PROBES)?;
        set(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            USER_TIMEOUT_MS,
        )?;
        let namespace = Namespace::current()?;
        let truth = Truth {
            local: client.local_addr()?,
            peer,
            cookie: cookie(fd)?,
            inode: inode_of(&format!("/proc/thread-self/fd/{fd}"))?,
            netns: namespace.inode,
        };
        set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
        client
            .write_all(b"?")
            .context("cannot send over loopback")?;
        server.read_exact(&mut [0])?;
        // Leaves nothing in TIME_WAIT.
        abort_on_close(fd)?;
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
        compare(&self.truth, id, settings, numbers)
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
    let hz = compare(truth, id, settings, after)?;
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
        cookie: truth.cookie,
        same_pids: test.record.tgid == std::process::id(),
    })
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.client.as_raw_fd()
    }
}

/// Compares one reading of the socket with the truth, and finds the kernel's tick.
fn compare(truth: &Truth, id: &Identity, settings: &Settings, after: &Numbers) -> Result<u32> {
    let hz = settings.time / IDLE_SECONDS;
    let expected: [(&str, u64, u64); 14] = [
        ("skc_state", id.state.into(), ESTABLISHED.into()),
        (
            "inet_sport",
            id.local_port.into(),
            truth.local.port().into(),
        ),
        ("skc_dport", id.peer_port.into(), truth.peer.port().into()),
        ("skc_cookie", id.cookie, truth.cookie),
        ("i_ino", id.inode, truth.inode),
        ("net.ns.inum", id.netns.into(), truth.netns.into()),
        ("SOCK_KEEPOPEN", id.keepopen.into(), 1),
        ("SOCK_DEAD", id.orphan.into(), 0),
        ("sk_err", id.error.into(), 0),
        (
            "keepalive_time",
            settings.time.into(),
            u64::from(hz) * u64::from(IDLE_SECONDS),
        ),
        (
            "keepalive_intvl",
            settings.interval.into(),
            u64::from(hz) * u64::from(INTERVAL_SECONDS),
        ),
        ("keepalive_probes", settings.probes.into(), PROBES.into()),
        (
            "icsk_user_timeout",
            settings.user_timeout.into(),
            USER_TIMEOUT_MS.into(),
        ),
        ("icsk_probes_out", after.probes_out.into(), 0),
    ];
    for (field, read, set) in expected {
        ensure!(
            read == set,
            "wrong kernel layout: {field} reads {read}, but it is {set}"
        );
    }
    ensure!(
        (1..=10_000).contains(&hz),
        "wrong kernel layout: a tick of {hz} per second"
    );
    check_address("local", id.local, truth.local.ip())?;
    check_address("peer", id.peer, truth.peer.ip())?;
    check_clocks(settings, after, hz)?;
    Ok(hz)
}

fn check_address(which: &str, read: [u8; 16], set: IpAddr) -> Result<()> {
    let read = std::net::Ipv6Addr::from(read).to_canonical();
    ensure!(
        read == set,
        "wrong kernel layout: {which} address reads {read}, but it is {set}"
    );
    Ok(())
}

/// The socket has just received: its time stamps must be of the last seconds.
fn check_clocks(settings: &Settings, after: &Numbers, hz: u32) -> Result<()> {
    let jiffies = after.jiffies as u32;
    let age = jiffies.wrapping_sub(after.rcv_tstamp);
    ensure!(
        age < 10 * hz,
        "wrong kernel layout: rcv_tstamp is {age} ticks old"
    );
    let age = after.time.saturating_sub(after.clock_cache);
    ensure!(
        age < 10_000_000_000,
        "wrong kernel layout: tcp_clock_cache is {age} ns old"
    );
    let due = after.expires.saturating_sub(after.jiffies);
    let idle = u64::from(settings.time);
    ensure!(
        after.timer_pending == 1 && due <= idle && due + 10 * u64::from(hz) > idle,
        "wrong kernel layout: the keepalive timer is due in {due} ticks, but {idle} were set"
    );
    Ok(())
}

fn enter_new_netns() -> Result<()> {
    // SAFETY: plain system calls on this thread alone; the structs are zeroed and filled in.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot make a network namespace");
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let result = libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        let error = std::io::Error::last_os_error();
        libc::close(socket);
        if result != 0 {
            return Err(error).context("cannot bring up loopback");
        }
    }
    Ok(())
}

fn set(fd: i32, level: i32, option: i32, value: u32) -> Result<()> {
    set_option(fd, level, option, &value)
}

/// SO_LINGER with no time: closing sends a RST.
fn abort_on_close(fd: i32) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)
}

fn set_option<T>(fd: i32, level: i32, option: i32, value: &T) -> Result<()> {
    // SAFETY: the pointer and length are those of `value`.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    ensure!(
        result == 0,
        "setsockopt({option}): {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn cookie(fd: i32) -> Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    ensure!(
        result == 0,
        "SO_COOKIE: {}",
        std::io::Error::last_os_error()
    );
    Ok(cookie)
}

fn inode_of(path: &str) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)
        .with_context(|| path.to_owned())?
        .ino())
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
