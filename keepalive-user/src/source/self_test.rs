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
use keepalive_ebpf::{Record, SelfTest, TimerFunctions};
use zerocopy::{FromBytes, IntoBytes};

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
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .or_else(|_| TcpListener::bind(("::1", 0)))
        .context("no loopback address to test on")?;
    let peer = listener.local_addr()?;
    write(
        map,
        &SelfTest {
            peer_port: peer.port().into(),
            ..SelfTest::default()
        },
    )?;
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
    let truth = Truth {
        local: client.local_addr()?,
        peer,
        cookie: cookie(fd)?,
        inode: inode_of(&format!("/proc/thread-self/fd/{fd}"))?,
        netns: u32::try_from(inode_of("/proc/thread-self/ns/net")?)?,
    };
    set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    client
        .write_all(b"?")
        .context("cannot send over loopback")?;
    server.read_exact(&mut [0])?;
    client.shutdown(std::net::Shutdown::Write)?;
    Ok(truth)
}

/// Compares what the programs read with the truth.
fn check(truth: &Truth, test: &SelfTest) -> Result<Learned> {
    let Record {
        id,
        settings,
        after,
        ..
    } = &test.record;
    ensure!(
        test.state_changes > 0,
        "the programs never saw the socket of the self-test"
    );
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
    check_clocks(&test.record, hz)?;
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

fn check_address(which: &str, read: [u8; 16], set: IpAddr) -> Result<()> {
    let read = std::net::Ipv6Addr::from(read).to_canonical();
    ensure!(
        read == set,
        "wrong kernel layout: {which} address reads {read}, but it is {set}"
    );
    Ok(())
}

/// The socket has just received: its time stamps must be of the last seconds.
fn check_clocks(record: &Record, hz: u32) -> Result<()> {
    let after = &record.after;
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
    let idle = u64::from(record.settings.time);
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
    // SAFETY: the pointer and length are those of `value`.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            (&raw const value).cast(),
            size_of::<u32>() as libc::socklen_t,
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
