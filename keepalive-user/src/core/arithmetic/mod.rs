//! # The arithmetic of keepalive
//!
//! From the settings of a socket to its future: which timers will run, and which rule ends
//! the connection when. Pure, in the kernel's unit (jiffies); every rule names its kernel
//! function. All times are lower bounds: the timer wheel fires late, never early.

mod connect;
mod keepalive;
mod plan;
mod retransmission;
mod wheel;
mod window_probe;

use keepalive_ebpf::{Record, Settings};

pub use self::{
    connect::connect_end,
    keepalive::{earliest_probe, idle_end, keepalive_end},
    plan::{plan, plan_of},
    retransmission::retransmit_end,
    window_probe::persist_end,
};

use crate::core::{event::Cause, kernel::RTO_MAX_MS};

/// The settings in force: the socket's own, else those of its namespace. Jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective {
    pub time: u32,
    pub interval: u32,
    pub probes: u32,
    /// 0 = none.
    pub user_timeout: u32,
    pub retries2: u32,
    pub rto_max: u32,
    /// `tcp_orphan_retries`; `None` = unknown.
    pub orphan_retries: Option<u32>,
    /// TCP_SYNCNT, else `tcp_syn_retries`; `None` = unknown.
    pub syn_retries: Option<u32>,
}

impl Effective {
    /// `keepalive_time_when`, `keepalive_intvl_when`, `keepalive_probes` (include/net/tcp.h).
    pub fn new(settings: &Settings, hz: u32) -> Self {
        let or = |own: u32, default: u32| if own == 0 { default } else { own };
        Self {
            time: or(settings.time, settings.sysctl_time),
            interval: or(settings.interval, settings.sysctl_interval),
            probes: or(settings.probes, settings.sysctl_probes),
            user_timeout: millis_to_jiffies(settings.user_timeout, hz),
            retries2: settings.sysctl_retries2,
            rto_max: or(settings.rto_max, millis_to_jiffies(RTO_MAX_MS as u32, hz)),
            orphan_retries: settings.sysctl_orphan_retries.checked_sub(1),
            syn_retries: Some(settings.syn_retries).filter(|&retries| retries != 0),
        }
    }

    pub fn of(record: &Record, hz: u32) -> Self {
        Self::new(&record.settings, hz)
    }

    /// `tcp_orphan_retries()` (net/ipv4/tcp_timer.c): 0 counts as 8 while the timeout has not reached the
    /// maximum. Without the case of an ICMP error (`sk_err_soft`), which ends it sooner.
    fn orphan_limit(&self, timeout: u64) -> Option<u32> {
        let retries = self.orphan_retries?;
        Some(if retries == 0 && self.is_alive(timeout) {
            8
        } else {
            retries
        })
    }

    /// Whether a timeout has not reached the maximum.
    fn is_alive(&self, timeout: u64) -> bool {
        timeout < u64::from(self.rto_max.max(1))
    }
}

/// When a connection ends unless an answer comes, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// From now, jiffies.
    pub after: u64,
    pub rule: Cause,
}

/// `msecs_to_jiffies`: rounds up.
pub fn millis_to_jiffies(millis: u32, hz: u32) -> u32 {
    let jiffies = (u64::from(millis) * u64::from(hz)).div_ceil(1000);
    u32::try_from(jiffies).unwrap_or(u32::MAX)
}

/// Milliseconds, rounded down.
pub fn jiffies_to_millis(jiffies: u64, hz: u32) -> u64 {
    (u128::from(jiffies) * 1000 / u128::from(hz.max(1)))
        .try_into()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const HZ: u32 = 250;

    pub fn effective(interval: u32, probes: u32, user_timeout: u32) -> Effective {
        Effective {
            time: 15 * HZ,
            interval,
            probes,
            user_timeout,
            retries2: 15,
            rto_max: 120 * HZ,
            orphan_retries: Some(0),
            syn_retries: Some(6),
        }
    }

    #[test]
    fn conversions() {
        assert_eq!(millis_to_jiffies(1, 250), 1);
        assert_eq!(millis_to_jiffies(2500, 250), 625);
        assert_eq!(millis_to_jiffies(u32::MAX, 1000), u32::MAX);
        assert_eq!(jiffies_to_millis(625, 250), 2500);
        assert_eq!(jiffies_to_millis(u64::MAX, 1), u64::MAX);
    }
}
