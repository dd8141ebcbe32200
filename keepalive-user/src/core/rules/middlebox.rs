//! Middleboxes between the ends of a connection: what they do to one that is idle for their timeout.

mod presets;
mod tracking;

use std::time::Duration;

pub use self::{
    presets::{Named, help},
    tracking::Tracking,
};
use super::{
    Case, Violation,
    remedy::{Advice, gap_ms},
    settings,
};
use crate::core::{
    event::{Keepalive, ListedSocket, Plan},
    format::millis,
};

/// A middlebox with an idle timeout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Middlebox {
    pub name: String,
    pub timeout_ms: u64,
    pub expiry: Expiry,
    /// The source of the timeout.
    pub source: Option<&'static str>,
}

/// What becomes of a connection that has been idle for the timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Its state is dropped, and later segments too.
    Silent,
    /// Its state is dropped; the next segment of either end is answered by RST.
    ResetsNext,
    /// Its state is dropped; what happens to later segments is not documented, or depends on rules.
    Unspecified,
    /// It is closed: by a proxy, which ends TCP itself. Its kernel answers keepalive probes, and the
    /// proxy, which does not see them, counts data only.
    Proxy {
        /// The proxy's own setting, if it can be changed.
        setting: Option<&'static str>,
    },
}

impl Middlebox {
    /// A middlebox of which only the timeout is known.
    pub fn unnamed(timeout: Duration) -> Self {
        Self {
            name: "the middlebox".to_owned(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            expiry: Expiry::Unspecified,
            source: None,
        }
    }

    /// A proxy of which only the timeout is known.
    pub fn proxy(timeout: Duration) -> Self {
        Self {
            name: "the proxy".to_owned(),
            expiry: Expiry::Proxy {
                setting: Some("its idle timeout"),
            },
            ..Self::unnamed(timeout)
        }
    }

    pub fn is_proxy(&self) -> bool {
        match self.expiry {
            Expiry::Proxy { .. } => true,
            Expiry::Silent | Expiry::ResetsNext | Expiry::Unspecified => false,
        }
    }

    /// Values that send a probe before the timeout, if there are any.
    pub fn advice(&self) -> Option<Advice> {
        match self.expiry {
            Expiry::Proxy { .. } => None,
            Expiry::Silent | Expiry::ResetsNext | Expiry::Unspecified => {
                Advice::within(self.timeout_ms)
            }
        }
    }

    /// Its timeout, and the source of that value.
    pub fn forgets(&self) -> String {
        let source = self
            .source
            .map_or_else(String::new, |source| format!(" ({source})"));
        let what = if self.is_proxy() {
            "closes connections without data"
        } else {
            "drops idle connections"
        };
        format!(
            "{} {what} after {}{source}",
            self.name,
            millis(self.timeout_ms)
        )
    }

    /// What the ends notice of it.
    pub fn then(&self) -> &'static str {
        match self.expiry {
            Expiry::Silent => "without notice to either end",
            Expiry::ResetsNext => "and the next segment of either end is answered by RST",
            Expiry::Unspecified => "what happens to later segments is not known",
            Expiry::Proxy { .. } => "by the proxy",
        }
    }

    /// The remedy with values that fit, or what helps where no value does.
    pub fn remedy(&self, with: impl Fn(Advice) -> String) -> String {
        self.advice().map_or_else(
            || {
                format!(
                    "no keepalive setting is as short: the options count in seconds, and timers run \
                     late; send application data more often than every {}",
                    millis(self.timeout_ms)
                )
            },
            with,
        )
    }
}

/// A connection through a proxy. No keepalive setting helps it.
pub fn behind_a_proxy(
    proxy: &Middlebox,
    setting: Option<&str>,
    socket: &ListedSocket,
) -> Violation {
    let timeout = millis(proxy.timeout_ms);
    let raise = setting.map_or_else(String::new, |setting| format!(", or raise {setting}"));
    let data = socket.last_data_ms.map_or_else(String::new, |ms| {
        format!("; last data received {} ago", millis(ms))
    });
    Violation {
        evidence: format!("{}{data}", proxy.forgets()),
        consequence: format!(
            "closed after {timeout} without data: keepalive probes end at the proxy, and do not count"
        ),
        remedy: format!(
            "no keepalive setting helps: send application data (a heartbeat) more often than every \
             {timeout}; on the side that opens connections close pooled ones sooner than after that, on the \
             side that accepts them keep idle ones open longer{raise}"
        ),
    }
}

/// A connection whose probes may come after the timeout. The gap is between two probes of a healthy idle
/// connection: after an answered probe the timer is set for the interval (`tcp_keepalive_timer`).
pub fn late(
    case: &Case<'_>,
    middlebox: &Middlebox,
    keepalive: &Keepalive,
    plan: &Plan,
) -> Violation {
    let gap = plan.first_probe_ms;
    let timeout = middlebox.timeout_ms;
    let (idle, interval) = (keepalive.time_ms, keepalive.interval_ms);
    // Whether the interval alone makes it late.
    let is_soon_enough = gap_ms(idle, interval.min(idle)) < timeout;
    let is_interval = interval > idle && is_soon_enough;
    let least = if is_interval { interval } else { gap.least };
    let after = |range: String| format!("{range} of silence, {}", middlebox.forgets());
    let range = format!("after {} to {}", millis(least), millis(gap.most));
    Violation {
        evidence: if is_interval {
            after(format!(
                "first probe after {}, but the next one {range}",
                millis(idle)
            ))
        } else {
            after(format!("first probe {range}"))
        },
        consequence: match least.checked_sub(timeout) {
            Some(early) => format!(
                "dropped {} before the probe, {}",
                millis(early),
                middlebox.then()
            ),
            None => format!(
                "dropped up to {} before the probe, if the timer runs late, {}",
                millis(gap.most - timeout),
                middlebox.then()
            ),
        },
        remedy: middlebox.remedy(|_| settings::change(case, keepalive, plan)),
    }
}
