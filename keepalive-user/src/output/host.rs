//! The lines of events of the host: suspend, a wall clock that is set, changed sysctls.

use jiff::tz::TimeZone;

use super::words::moment;
use crate::core::{
    event::{ClockStep, Suspend, Sysctl, SysctlChange},
    format::{micros, millis, name, plural},
};

pub fn suspended(suspend: &Suspend) -> String {
    format!(
        "the host was suspended for {}: keepalive timers stood still, the peers' did not",
        millis(suspend.duration_ms)
    )
}

pub fn stepped(step: &ClockStep) -> String {
    let direction = if step.step_us < 0 { "back" } else { "forward" };
    format!(
        "the wall clock was set {direction} by {}: later times of day are in the new time",
        micros(step.step_us.unsigned_abs())
    )
}

pub fn sysctl(change: &SysctlChange, zone: &TimeZone) -> String {
    format!(
        "net.ipv4.{} of network namespace {} changed from {} to {} after {}: {}",
        name(change.name),
        change.netns,
        change.old,
        change.new,
        moment(change.since.timestamp, change.when.timestamp, zone),
        effect(change),
    )
}

/// Which connections use the new value, and since when.
fn effect(change: &SysctlChange) -> String {
    let sockets = change.sockets;
    let (option, rule, kept) = match change.name {
        // `keepalive_time_when` and `keepalive_intvl_when`, where the timer is armed.
        Sysctl::TcpKeepaliveTime => ("TCP_KEEPIDLE", ARMED, Some(sockets.armed)),
        Sysctl::TcpKeepaliveIntvl => ("TCP_KEEPINTVL", ARMED, Some(sockets.armed)),
        // `keepalive_probes` in `tcp_keepalive_timer`.
        Sysctl::TcpKeepaliveProbes => ("TCP_KEEPCNT", AT_THE_NEXT_RUN, None),
        // `tcp_write_timeout`, `tcp_probe_timer`.
        Sysctl::TcpRetries2 => ("TCP_USER_TIMEOUT", AT_THE_NEXT_TIMEOUT, None),
    };
    let tracked = plural(sockets.tracked, "tracked connection");
    let kept = kept.map_or(String::new(), |armed| {
        format!(", {armed} with an armed timer")
    });
    format!(
        "{rule} ({tracked}{kept}, {} with {option} of its own, which the sysctl does not change)",
        sockets.own
    )
}

const ARMED: &str = "new connections and newly armed timers only; open connections keep the timer \
                     they have until it runs";
const AT_THE_NEXT_RUN: &str = "also open connections, from the next run of the keepalive timer on";
const AT_THE_NEXT_TIMEOUT: &str = "also open connections, from the next retransmission timeout on";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::event::{UnaffectedSockets, When},
        output::tests::CLOCK,
    };

    fn change(name: Sysctl) -> String {
        let at = |second: u64| -> When { CLOCK.at((1000 + second) * 1_000_000_000) };
        let (old, new) = (7200, 60);
        let change = SysctlChange {
            when: at(60),
            since: at(50),
            netns: 4_026_531_840,
            name,
            old,
            new,
            sockets: UnaffectedSockets {
                tracked: 5,
                armed: 3,
                own: 1,
            },
        };
        sysctl(&change, &TimeZone::UTC)
    }

    #[test]
    fn each_sysctl_has_its_effect() {
        assert_eq!(
            change(Sysctl::TcpKeepaliveTime),
            "net.ipv4.tcp_keepalive_time of network namespace 4026531840 changed from 7200 to 60 after \
             00:00:50: new connections and newly armed timers only; open connections keep the timer they \
             have until it runs (5 tracked connections, 3 with an armed timer, 1 with TCP_KEEPIDLE of its \
             own, which the sysctl does not change)"
        );
        let probes = change(Sysctl::TcpKeepaliveProbes);
        assert!(probes.contains("also open connections"), "{probes}");
        assert!(!probes.contains("armed"), "{probes}");
        assert!(change(Sysctl::TcpKeepaliveIntvl).contains("TCP_KEEPINTVL"));
        assert!(change(Sysctl::TcpRetries2).contains("TCP_USER_TIMEOUT"));
    }

    #[test]
    fn suspends_and_steps() {
        let when = CLOCK.at(1_000_000_000_000);
        let suspend = Suspend {
            when,
            duration_ms: 3_600_000,
            clock_offset_ns: 0,
        };
        let text = suspended(&suspend);
        assert!(
            text.starts_with("the host was suspended for 60 min: "),
            "{text}"
        );
        let step = ClockStep {
            when,
            step_us: -2_000_000,
            clock_offset_ns: 0,
        };
        let text = stepped(&step);
        assert!(
            text.starts_with("the wall clock was set back by 2 s"),
            "{text}"
        );
    }
}
