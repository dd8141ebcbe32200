//! Compares what the programs read with what the kernel reports by other interfaces. Every field that
//! [`keepalive_ebpf::FIELDS`] marks as compared is compared here, or by the walk over open files.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use keepalive_ebpf::{
    ABSENT, Identity, KernelLayout, Mptcp, Route, RouteFlags, SelfTest, Settings, TcpSample,
    TimerFunctions,
};
use rustix::net::AddressFamily;

use super::{
    IDLE_SECONDS, INTERVAL_SECONDS, Learned, PROBES, USER_TIMEOUT_MS,
    truth::{After, SysctlValues, Truth},
};
use crate::core::{
    arithmetic::{Effective, millis_to_jiffies},
    kernel::{PF_KTHREAD, SEND_SHUTDOWN, pending, rto_min, state},
    wire,
};

/// How long setting the options and exchanging two bytes may take, seconds: much longer than a loaded
/// machine stalls, and a small part of the idle time.
const SET_UP: u32 = 60;

/// Addresses of the kernel are in the upper half on all 64-bit machines with BPF trampolines.
const KERNEL_HALF: u64 = 1 << 63;

/// One reading of the socket under test.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    pub id: &'a Identity,
    pub settings: &'a Settings,
    pub sample: &'a TcpSample,
    /// Deadline of the write timer.
    pub write_expires: u64,
}

/// Compares all that the programs read while `shutdown` held the socket's lock.
///
/// # Errors
/// Names the first field that was read wrong, with both values.
pub fn test(
    truth: &Truth,
    after: &After,
    layout: &KernelLayout,
    test: &SelfTest,
) -> Result<Learned> {
    ensure!(
        test.state_changes > 0,
        "the programs never saw the socket of the self-test (sk_protocol, skc_dport, net.ns.inum)"
    );
    let record = wire::record(&test.record).context("wrong kernel layout")?;
    let reading = Reading {
        id: &record.id,
        settings: &record.settings,
        sample: &record.after,
        write_expires: test.write_expires,
    };
    let hz = socket(truth, after, layout, &reading)?;
    same("sk_shutdown", record.id.shutdown, SEND_SHUTDOWN)?;
    same("sk_lock.owned", record.after.owned, true)?;
    route(record.route)?;
    ensure!(
        test.socket_sk == record.id.sk,
        "wrong kernel layout: socket.sk behind sk_socket is not the socket itself"
    );
    task(truth, after, test.task_flags, &record.comm)?;
    for (timer, function) in [
        ("keepalive", test.keepalive_function),
        ("write", test.write_function),
    ] {
        ensure!(
            function != 0,
            "wrong kernel layout: the {timer} timer is not where it should be"
        );
        ensure!(
            function >= KERNEL_HALF,
            "wrong kernel layout: timer_list.function of the {timer} timer is not an address"
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
        same_pids: record.tgid == std::process::id(),
    })
}

/// Compares one reading of the socket with the truth, and returns the kernel's tick.
///
/// # Errors
/// Names the first field that was read wrong, with both values.
pub fn socket(
    truth: &Truth,
    after: &After,
    layout: &KernelLayout,
    reading: &Reading<'_>,
) -> Result<u32> {
    let hz = reading.settings.time / IDLE_SECONDS;
    ensure!(
        (1..=10_000).contains(&hz),
        "wrong kernel layout: a tick of {hz} per second"
    );
    identity(truth, reading.id)?;
    settings(truth, layout, reading.settings, hz)?;
    counters(truth, after, reading.sample, hz)?;
    clocks(truth, reading, hz)?;
    write_timer(truth, reading, hz)?;
    Ok(hz)
}

fn identity(truth: &Truth, id: &Identity) -> Result<()> {
    let family = if truth.local.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    same("skc_family", id.family, family.as_raw())?;
    same("skc_state", id.state, state::ESTABLISHED)?;
    same("inet_sport", id.local_port, truth.local.port())?;
    same("skc_dport", id.peer_port, truth.peer.port())?;
    same_address("local", id.local, truth.local.ip())?;
    same_address("peer", id.peer, truth.peer.ip())?;
    same("skc_cookie", id.cookie, truth.cookie)?;
    same("i_ino", id.inode, truth.inode)?;
    same("net.ns.inum", id.netns, truth.netns)?;
    same("SOCK_KEEPOPEN", id.keepopen, true)?;
    same("SOCK_DEAD", id.orphan, false)?;
    same("sk_err", id.error, 0_u8)?;
    same("sk_err_soft", id.error_soft, 0_u8)?;
    ensure!(
        id.mptcp != Mptcp::Subflow,
        "wrong kernel layout: is_mptcp reads 1, but the socket is TCP's"
    );
    match truth.cgroup {
        // It reads 0 where the kernel does not store it (5.10, some options of cgroup v1).
        Some(cgroup) if id.cgroup != 0 => same("sk_cgrp_data", id.cgroup, cgroup),
        _ => Ok(()),
    }
}

fn settings(truth: &Truth, layout: &KernelLayout, settings: &Settings, hz: u32) -> Result<()> {
    same("keepalive_time", settings.time, hz * IDLE_SECONDS)?;
    same("keepalive_intvl", settings.interval, hz * INTERVAL_SECONDS)?;
    same("keepalive_probes", settings.probes, PROBES)?;
    same("icsk_user_timeout", settings.user_timeout, USER_TIMEOUT_MS)?;
    if let Some(rto_max_ms) = truth.rto_max_ms
        && layout.icsk_rto_max != ABSENT
    {
        let rto_max = millis_to_jiffies(rto_max_ms, hz);
        ensure!(
            rto_max.abs_diff(settings.rto_max) <= 1,
            "wrong kernel layout: icsk_rto_max reads {} ticks, but it is {rto_max}",
            settings.rto_max
        );
    }
    let Some(sysctls) = &truth.sysctls else {
        return Ok(());
    };
    let &SysctlValues {
        time,
        interval,
        probes,
        retries2,
        syn_retries,
        orphan_retries,
    } = sysctls;
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
    same("sysctl_tcp_retries2", settings.sysctl_retries2, retries2)?;
    // The socket has no TCP_SYNCNT.
    same("sysctl_tcp_syn_retries", settings.syn_retries, syn_retries)?;
    same(
        "sysctl_tcp_orphan_retries",
        settings.sysctl_orphan_retries,
        orphan_retries + 1,
    )
}

/// The route of a connection over loopback: its device has the index 1 in every namespace.
fn route(route: Route) -> Result<()> {
    same("sk_dst_cache (the index of lo)", route.device, 1_u8)?;
    let expected = RouteFlags::READ | RouteFlags::CACHED | RouteFlags::UP | RouteFlags::CARRIER;
    same("the state of lo", route.flags.bits(), expected.bits())
}

/// No segment was sent since TCP_INFO was read, so these values have not changed.
fn counters(truth: &Truth, after: &After, sample: &TcpSample, hz: u32) -> Result<()> {
    let info = &truth.info;
    same("icsk_probes_out", sample.probes_out, info.tcpi_probes)?;
    same("icsk_backoff", sample.backoff, info.tcpi_backoff)?;
    same(
        "icsk_retransmits",
        sample.retransmits,
        info.tcpi_retransmits,
    )?;
    same("packets_out", sample.packets_out, info.tcpi_unacked)?;
    let unsent = info.tcpi_notsent_bytes;
    ensure!(
        sample.snd_una != 0
            && sample.snd_una == sample.snd_nxt
            && sample.write_seq == sample.snd_nxt.wrapping_add(unsent),
        "wrong kernel layout: snd_una {}, snd_nxt {} and write_seq {}, but nothing is in flight \
             and {unsent} bytes are unsent",
        sample.snd_una,
        sample.snd_nxt,
        sample.write_seq
    );
    same("snd_wnd", sample.snd_wnd, info.tcpi_snd_wnd)?;
    // An ACK that was delayed may have been sent meanwhile, or received.
    let then = &after.info;
    for (field, read, before, after) in [
        (
            "segs_out",
            sample.segs_out,
            info.tcpi_segs_out,
            then.tcpi_segs_out,
        ),
        (
            "data_segs_in",
            sample.data_segs_in,
            info.tcpi_data_segs_in,
            then.tcpi_data_segs_in,
        ),
        (
            "segs_in",
            sample.segs_in,
            info.tcpi_segs_in,
            then.tcpi_segs_in,
        ),
    ] {
        ensure!(
            read.wrapping_sub(before) <= after.wrapping_sub(before),
            "wrong kernel layout: {field} reads {read}, but it went from {before} to {after}"
        );
    }
    same("last_oow_ack_time", sample.last_oow_ack_time, 0_u8)?;
    same("retrans_stamp", sample.retrans_stamp, 0_u8)?;
    // TCP_INFO reports whole ticks in microseconds, rounded where a tick is not a whole number of them.
    let rto = (u64::from(info.tcpi_rto) * u64::from(hz)).div_ceil(1_000_000);
    ensure!(
        rto.abs_diff(sample.rto.into()) <= 1,
        "wrong kernel layout: icsk_rto reads {} ticks, but it is {rto}",
        sample.rto
    );
    Ok(())
}

/// Nothing was received since TCP_INFO was read: the age of the time stamps is the reported age plus the
/// time since.
fn clocks(truth: &Truth, reading: &Reading<'_>, hz: u32) -> Result<()> {
    let Reading {
        settings, sample, ..
    } = reading;
    let since = truth.asked.elapsed();
    let jiffies = sample.jiffies as u32;
    // TCP_INFO reports whole ticks in milliseconds, and the stamp and the reading are rounded to ticks.
    let oldest = |reported_ms: u32| {
        let milliseconds = u128::from(reported_ms) + since.as_millis();
        milliseconds * u128::from(hz) / 1000 + 3
    };
    for (field, stamp, reported_ms) in [
        (
            "rcv_tstamp",
            sample.rcv_tstamp,
            truth.info.tcpi_last_ack_recv,
        ),
        ("lrcvtime", sample.lrcvtime, truth.info.tcpi_last_data_recv),
    ] {
        let age = jiffies.wrapping_sub(stamp);
        let oldest = oldest(reported_ms);
        ensure!(
            u128::from(age) <= oldest,
            "wrong kernel layout: {field} is {age} ticks old, and cannot be older than {oldest}"
        );
    }
    let age = sample.time.saturating_sub(sample.clock_cache);
    let set_up = u64::from(SET_UP) * 1_000_000_000;
    ensure!(
        u128::from(age) < u128::from(set_up) + since.as_nanos(),
        "wrong kernel layout: tcp_clock_cache is {age} ns old"
    );
    let due = sample.expires.saturating_sub(sample.jiffies);
    let idle = u64::from(settings.time);
    let passed = u64::from(SET_UP * hz) + since.as_secs() * u64::from(hz);
    ensure!(
        sample.timer_pending && due <= idle && due + passed > idle,
        "wrong kernel layout: the keepalive timer is due in {due} ticks, but {idle} were set"
    );
    Ok(())
}

/// With the window closed the kernel must have armed the timer of zero-window probes. With the window open
/// it must have cleared the pending timer of the data sent before; the deadline of that timer stays.
fn write_timer(truth: &Truth, reading: &Reading<'_>, hz: u32) -> Result<()> {
    let Reading {
        settings, sample, ..
    } = reading;
    let pending = match truth.closing {
        Some(_) => pending::PROBE0,
        None => 0,
    };
    same("icsk_pending", sample.pending, pending)?;
    let (begin, least, most) = match truth.closing {
        Some(closing) => {
            let interval = probe_interval(settings, sample, hz);
            (closing, interval, interval)
        }
        // The first timeout of a connection is a second (RFC 6298).
        None => (truth.opened, 0, u64::from(sample.rto.max(hz))),
    };
    let due = i128::from(reading.write_expires) - i128::from(sample.jiffies);
    let passed = ticks_since(begin, hz);
    // Pacing may delay it (`tcp_pacing_delay`).
    let (earliest, latest) = (
        i128::from(least) - i128::from(passed),
        i128::from(most) + i128::from(hz),
    );
    ensure!(
        (earliest..=latest).contains(&due),
        "wrong kernel layout: the write timer is due in {due} ticks, but it was set to \
         {least}..={most} at most {passed} ticks ago"
    );
    let age = (sample.jiffies as u32).wrapping_sub(sample.probes_tstamp);
    let is_probing = truth.closing.is_some() && truth.info.tcpi_backoff > 0;
    ensure!(
        if is_probing {
            sample.probes_tstamp != 0 && u64::from(age) <= passed
        } else {
            sample.probes_tstamp == 0
        },
        "wrong kernel layout: icsk_probes_tstamp reads {} at {}, but {}",
        sample.probes_tstamp,
        sample.jiffies as u32,
        if is_probing {
            format!("the first probe was sent at most {passed} ticks ago")
        } else {
            "no zero-window probe was sent".to_owned()
        }
    );
    Ok(())
}

/// `tcp_probe0_when`: from the RTO, but no less than TCP_RTO_MIN, doubled with every probe.
fn probe_interval(settings: &Settings, sample: &TcpSample, hz: u32) -> u64 {
    let rto_max = Effective::new(settings, hz).rto_max;
    let base = u64::from(sample.rto.max(rto_min(hz)));
    (base << sample.backoff.min(31)).min(rto_max.into())
}

/// Upper bound of the ticks since then, rounding and a started tick included.
fn ticks_since(begin: Instant, hz: u32) -> u64 {
    let ticks = begin.elapsed().as_nanos() * u128::from(hz) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(3)
}

/// Compares the flags and the name of the acting thread with /proc, where /proc shows them.
fn task(truth: &Truth, after: &After, read: u32, comm: &[u8; 16]) -> Result<()> {
    if let (Some(before), Some(after)) = (truth.task_flags, after.task_flags) {
        // The kernel sets and clears some of them during a system call.
        let steady = before & after;
        ensure!(
            read & steady == steady && read & PF_KTHREAD == 0,
            "wrong kernel layout: task_struct.flags reads {read:#x}, but it is {steady:#x}"
        );
    }
    let read = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    if let Ok(own) = std::fs::read("/proc/self/comm") {
        ensure!(
            own.strip_suffix(b"\n").unwrap_or(&own) == read,
            "wrong kernel layout: task_struct.comm reads {:?}, but it is {:?}",
            String::from_utf8_lossy(read),
            String::from_utf8_lossy(&own)
        );
    }
    Ok(())
}

/// # Errors
/// If they differ: names the field, and has both values.
pub fn same<T: Into<u64>, U: Into<u64>>(field: &str, read: T, is: U) -> Result<()> {
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

#[cfg(test)]
mod tests;
