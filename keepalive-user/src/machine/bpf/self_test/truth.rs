//! What the kernel says of the socket under test by its ordinary interfaces, and the comparison of
//! what a program read with that. Nothing here knows BPF.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use keepalive_ebpf::{Identity, Numbers, Settings};

use super::{IDLE_SECONDS, INTERVAL_SECONDS, PROBES, USER_TIMEOUT_MS};
use crate::machine::files;

/// The state when `shutdown` is about to change it, which is when the socket is read.
const ESTABLISHED: u8 = 1;
/// How long setting the options and exchanging two bytes may take, seconds: much longer than a busy
/// machine stalls, and a small part of the idle time.
const SET_UP: u32 = 60;

/// The socket as it is.
pub struct Truth {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub cookie: u64,
    pub netns: u32,
    inode: u64,
    /// `None` where cgroup2 is not mounted, or not from its root.
    cgroup: Option<u64>,
    /// `None` where /proc/sys does not show them.
    sysctls: Option<[u32; 4]>,
    info: libc::tcp_info,
    /// Before `info` was asked for.
    asked: Instant,
}

impl Truth {
    /// Of a connected socket in the calling thread's network namespace that has nothing in flight.
    pub fn of(socket: &TcpStream, netns: u32) -> Result<Self> {
        let fd = socket.as_raw_fd();
        let inode = fs::metadata(format!("/proc/thread-self/fd/{fd}"));
        let asked = Instant::now();
        Ok(Self {
            local: socket.local_addr()?,
            peer: socket.peer_addr()?,
            cookie: option(fd, libc::SOL_SOCKET, libc::SO_COOKIE).context("SO_COOKIE")?,
            netns,
            inode: inode.context("/proc/thread-self/fd")?.ino(),
            cgroup: own_cgroup(),
            sysctls: sysctls(),
            info: option(fd, libc::IPPROTO_TCP, libc::TCP_INFO).context("TCP_INFO")?,
            asked,
        })
    }

    /// Compares one reading of the socket with the truth, and finds the kernel's tick.
    ///
    /// # Errors
    /// Names the first field that was read wrong, with both values.
    pub fn compare(&self, id: &Identity, settings: &Settings, numbers: &Numbers) -> Result<u32> {
        let hz = settings.time / IDLE_SECONDS;
        ensure!(
            (1..=10_000).contains(&hz),
            "wrong kernel layout: a tick of {hz} per second"
        );
        self.compare_identity(id)?;
        self.compare_settings(settings, hz)?;
        self.compare_numbers(numbers, hz)?;
        self.compare_clocks(settings, numbers, hz)?;
        Ok(hz)
    }

    fn compare_identity(&self, id: &Identity) -> Result<()> {
        same("skc_state", id.state, ESTABLISHED)?;
        same("inet_sport", id.local_port, self.local.port())?;
        same("skc_dport", id.peer_port, self.peer.port())?;
        same_address("local", id.local, self.local.ip())?;
        same_address("peer", id.peer, self.peer.ip())?;
        same("skc_cookie", id.cookie, self.cookie)?;
        same("i_ino", id.inode, self.inode)?;
        same("net.ns.inum", id.netns, self.netns)?;
        same("SOCK_KEEPOPEN", id.keepopen, 1_u8)?;
        same("SOCK_DEAD", id.orphan, 0_u8)?;
        same("sk_err", id.error, 0_u8)?;
        match self.cgroup {
            // Where the kernel does not keep it (5.10, some options of cgroup v1) it reads 0.
            Some(cgroup) if id.cgroup != 0 => same("sk_cgrp_data", id.cgroup, cgroup),
            _ => Ok(()),
        }
    }

    fn compare_settings(&self, settings: &Settings, hz: u32) -> Result<()> {
        same("keepalive_time", settings.time, hz * IDLE_SECONDS)?;
        same("keepalive_intvl", settings.interval, hz * INTERVAL_SECONDS)?;
        same("keepalive_probes", settings.probes, PROBES)?;
        same("icsk_user_timeout", settings.user_timeout, USER_TIMEOUT_MS)?;
        let Some([time, interval, probes, retries2]) = self.sysctls else {
            return Ok(());
        };
        let ticks = |seconds: u32| u64::from(seconds) * u64::from(hz);
        same(
            "sysctl_tcp_keepalive_time",
            settings.sysctl_time,
            ticks(time),
        )?;
        let read = settings.sysctl_interval;
        same("sysctl_tcp_keepalive_intvl", read, ticks(interval))?;
        same(
            "sysctl_tcp_keepalive_probes",
            settings.sysctl_probes,
            probes,
        )?;
        same("sysctl_tcp_retries2", settings.sysctl_retries2, retries2)
    }

    /// Nothing was sent since TCP_INFO was asked, so these have not moved.
    fn compare_numbers(&self, numbers: &Numbers, hz: u32) -> Result<()> {
        let info = &self.info;
        same("icsk_probes_out", numbers.probes_out, info.tcpi_probes)?;
        same("icsk_backoff", numbers.backoff, info.tcpi_backoff)?;
        same(
            "icsk_retransmits",
            numbers.retransmits,
            info.tcpi_retransmits,
        )?;
        same("packets_out", numbers.packets_out, info.tcpi_unacked)?;
        ensure!(
            numbers.snd_una != 0
                && numbers.snd_una == numbers.snd_nxt
                && numbers.snd_una == numbers.write_seq,
            "wrong kernel layout: snd_una {}, snd_nxt {} and write_seq {}, but nothing is in flight",
            numbers.snd_una,
            numbers.snd_nxt,
            numbers.write_seq
        );
        // Microseconds of whole ticks, rounded for a tick that is no whole number of them.
        let rto = (u64::from(info.tcpi_rto) * u64::from(hz)).div_ceil(1_000_000);
        ensure!(
            rto.abs_diff(numbers.rto.into()) <= 1,
            "wrong kernel layout: icsk_rto reads {} ticks, but it is {rto}",
            numbers.rto
        );
        Ok(())
    }

    /// Nothing was received since TCP_INFO was asked: the time stamps are as old as it reported, and
    /// as long as it took since.
    fn compare_clocks(&self, settings: &Settings, numbers: &Numbers, hz: u32) -> Result<()> {
        let since = self.asked.elapsed();
        let jiffies = numbers.jiffies as u32;
        // Its milliseconds are whole ticks, and the stamp and the reading are rounded to ticks.
        let oldest = |reported_ms: u32| {
            let milliseconds = u128::from(reported_ms) + since.as_millis();
            milliseconds * u128::from(hz) / 1000 + 3
        };
        for (field, stamp, reported_ms) in [
            (
                "rcv_tstamp",
                numbers.rcv_tstamp,
                self.info.tcpi_last_ack_recv,
            ),
            ("lrcvtime", numbers.lrcvtime, self.info.tcpi_last_data_recv),
        ] {
            let age = jiffies.wrapping_sub(stamp);
            let oldest = oldest(reported_ms);
            ensure!(
                u128::from(age) <= oldest,
                "wrong kernel layout: {field} is {age} ticks old, and cannot be older than {oldest}"
            );
        }
        let age = numbers.time.saturating_sub(numbers.clock_cache);
        let set_up = u64::from(SET_UP) * 1_000_000_000;
        ensure!(
            u128::from(age) < u128::from(set_up) + since.as_nanos(),
            "wrong kernel layout: tcp_clock_cache is {age} ns old"
        );
        let due = numbers.expires.saturating_sub(numbers.jiffies);
        let idle = u64::from(settings.time);
        let passed = u64::from(SET_UP * hz) + since.as_secs() * u64::from(hz);
        ensure!(
            numbers.timer_pending == 1 && due <= idle && due + passed > idle,
            "wrong kernel layout: the keepalive timer is due in {due} ticks, but {idle} were set"
        );
        Ok(())
    }
}

fn same<T: Into<u64>, U: Into<u64>>(field: &str, read: T, is: U) -> Result<()> {
    let (read, is) = (read.into(), is.into());
    ensure!(
        read == is,
        "wrong kernel layout: {field} reads {read}, but it is {is}"
    );
    Ok(())
}

fn same_address(which: &str, read: [u8; 16], is: IpAddr) -> Result<()> {
    let read = Ipv6Addr::from(read).to_canonical();
    ensure!(
        read == is,
        "wrong kernel layout: {which} address reads {read}, but it is {is}"
    );
    Ok(())
}

/// `net.ipv4` of the calling thread's network namespace.
fn sysctls() -> Option<[u32; 4]> {
    let read = |name: &str| {
        let text = files::read_kernel(&format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some([
        read("tcp_keepalive_time")?,
        read("tcp_keepalive_intvl")?,
        read("tcp_keepalive_probes")?,
        read("tcp_retries2")?,
    ])
}

/// Id of the calling thread's cgroup. Only a mount of the root we see has the paths we see.
fn own_cgroup() -> Option<u64> {
    let mounts = files::read_kernel("/proc/self/mountinfo").ok()?;
    let root = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then_some(at)
    })?;
    let groups = files::read_kernel("/proc/thread-self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(fs::metadata(format!("{root}{path}")).ok()?.ino())
}

fn option<T>(fd: i32, level: i32, option: i32) -> Result<T> {
    // SAFETY: used for integers and structs of integers, for which all zero is a value.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`.
    let result =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut length) };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::bpf::self_test::Connection;

    const HZ: u32 = 250;

    type Reading = (Identity, Settings, Numbers);
    type Spoil = fn(&mut Reading);

    /// What programs with the right layout would read of this socket.
    fn right(truth: &Truth) -> Reading {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let id = Identity {
            state: ESTABLISHED,
            local: octets(truth.local.ip()),
            peer: octets(truth.peer.ip()),
            local_port: truth.local.port(),
            peer_port: truth.peer.port(),
            cookie: truth.cookie,
            inode: truth.inode,
            netns: truth.netns,
            cgroup: 42,
            keepopen: 1,
            ..Identity::default()
        };
        let settings = Settings {
            time: IDLE_SECONDS * HZ,
            interval: INTERVAL_SECONDS * HZ,
            probes: PROBES,
            user_timeout: USER_TIMEOUT_MS,
            sysctl_time: 7200 * HZ,
            sysctl_interval: 75 * HZ,
            sysctl_probes: 9,
            sysctl_retries2: 15,
            ..Settings::default()
        };
        let numbers = Numbers {
            time: 5_000_000_000,
            clock_cache: 4_999_000_000,
            jiffies: 0x1_0000_0010,
            expires: 0x1_0000_0000 + u64::from(IDLE_SECONDS * HZ),
            rcv_tstamp: 0xf,
            lrcvtime: 0xf,
            write_seq: 7,
            snd_nxt: 7,
            snd_una: 7,
            rto: HZ / 5,
            timer_pending: 1,
            ..Numbers::default()
        };
        (id, settings, numbers)
    }

    #[test]
    fn every_wrong_field_is_refused_by_its_name() {
        let mut truth = Connection::open(|_, _| Ok(())).unwrap().truth;
        truth.cgroup = Some(42);
        truth.sysctls = Some([7200, 75, 9, 15]);
        truth.info.tcpi_rto = 200_000;
        let compare = |(id, settings, numbers): Reading| truth.compare(&id, &settings, &numbers);
        assert_eq!(compare(right(&truth)).unwrap(), HZ);
        let wrong: [(&str, Spoil); 27] = [
            ("skc_state", |(id, ..)| id.state = 4),
            ("inet_sport", |(id, ..)| id.local_port ^= 1),
            ("skc_dport", |(id, ..)| id.peer_port ^= 1),
            ("local address", |(id, ..)| id.local[15] ^= 2),
            ("peer address", |(id, ..)| id.peer[15] ^= 2),
            ("skc_cookie", |(id, ..)| id.cookie ^= 1),
            ("i_ino", |(id, ..)| id.inode ^= 1),
            ("net.ns.inum", |(id, ..)| id.netns ^= 1),
            ("SOCK_KEEPOPEN", |(id, ..)| id.keepopen = 0),
            ("SOCK_DEAD", |(id, ..)| id.orphan = 1),
            ("sk_err", |(id, ..)| id.error = 1),
            ("sk_cgrp_data", |(id, ..)| id.cgroup = 43),
            ("tick", |(_, settings, _)| settings.time = 0),
            ("keepalive_time", |(_, settings, _)| settings.time += 1),
            ("keepalive_intvl", |(_, settings, _)| settings.interval = 0),
            ("keepalive_probes", |(_, settings, _)| settings.probes = 0),
            ("icsk_user_timeout", |(_, settings, _)| {
                settings.user_timeout = 0;
            }),
            ("sysctl_tcp_keepalive_time", |(_, settings, _)| {
                settings.sysctl_time = 7200;
            }),
            ("sysctl_tcp_retries2", |(_, settings, _)| {
                settings.sysctl_retries2 = 8;
            }),
            ("icsk_probes_out", |(.., numbers)| numbers.probes_out = 1),
            ("icsk_backoff", |(.., numbers)| numbers.backoff = 1),
            ("icsk_retransmits", |(.., numbers)| numbers.retransmits = 1),
            ("packets_out", |(.., numbers)| numbers.packets_out = 1),
            ("snd_nxt 8", |(.., numbers)| numbers.snd_nxt = 8),
            ("icsk_rto", |(.., numbers)| numbers.rto += 2),
            ("lrcvtime", |(.., numbers)| numbers.lrcvtime = 1 << 20),
            ("keepalive timer", |(.., numbers)| numbers.expires = 0),
        ];
        for (field, spoil) in wrong {
            let mut reading = right(&truth);
            spoil(&mut reading);
            let error = compare(reading).expect_err(field).to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
