//! The kernel's rules applied to one event: fields that follow from other fields, with the
//! tolerance that the timer wheel and an emulated CPU need, and no more.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::harness::stalls;
use crate::kit::event::Event;
use crate::kit::watch::{Settings, Watch};

/// `next_ms` is read a little after the kernel computed it: up to 13 ticks of 4 ms later when a
/// virtual CPU stalled (kernel-facts.md, 4.2). Longer stalls are measured (`stalls`).
const STALL_MS: u64 = 60;

/// How late a timer of a few seconds may run: an eighth of its time by the design of the timer
/// wheel, the rest for an emulated CPU that runs fifteen other scenarios.
const LATE_MS: u64 = 2500;

/// Facts about the running kernel and the backend under test.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Milliseconds per tick, rounded up.
    pub tick_ms: u64,
    /// The tick, per second.
    pub hz: u64,
    /// Whether the backend is fentry, which sees arguments and return values of functions.
    pub fentry: bool,
    pub clock_offset_ns: i64,
}

impl Facts {
    pub fn from_start(start: &Event) -> Result<Self> {
        let hz = start.number("hz")?;
        ensure!((100..=1000).contains(&hz), "hz is {hz}");
        Ok(Self {
            hz,
            tick_ms: 1000_u64.div_ceil(hz),
            fentry: start.text("backend") == "fentry",
            clock_offset_ns: start.get("clock_offset_ns").as_i64().unwrap_or_default(),
        })
    }

    /// How late a timer may currently run.
    fn latest_ms(&self) -> u64 {
        LATE_MS + stalls::longest_ms()
    }

    /// The range for a remaining time that was `milliseconds` when the kernel set it.
    pub fn about(&self, milliseconds: u64) -> RangeInclusive<u64> {
        let stall = STALL_MS.max(stalls::longest_ms());
        milliseconds.saturating_sub(stall)..=milliseconds + self.tick_ms
    }

    /// The range for the idle time that a timer finds which was set to `milliseconds`.
    pub fn at_least(&self, milliseconds: u64) -> RangeInclusive<u64> {
        milliseconds.saturating_sub(self.tick_ms)..=milliseconds + self.latest_ms()
    }

    /// Expects a keepalive probe: all fields follow from its number and the settings.
    pub fn expect_probe(&self, watch: &Watch<'_>, event: &Event, attempt: u64) -> Result<()> {
        let settings = watch.settings();
        event.expect("event", "timer")?;
        event.expect("decision", "probe_sent")?;
        event.expect("attempt", attempt)?;
        event.expect("probes_out.before", attempt - 1)?;
        event.expect("probes_out.after", attempt)?;
        event.expect("packets_out", 0)?;
        event.expect("unsent_bytes", 0)?;
        self.expect_sent(event)?;
        event.expect_within("next_ms", self.about(settings.interval_ms))?;
        event.expect_within("late_ms", 0..=self.latest_ms())?;
        let attempts = if settings.user_timeout_ms == 0 {
            Value::from(settings.probes)
        } else {
            Value::Null
        };
        event.expect("attempts", attempts)?;
        self.expect_death(&settings, event, attempt)
    }

    /// Expects that the probe left the host; only fentry sees the result of the transmission.
    fn expect_sent(&self, event: &Event) -> Result<()> {
        let sent = if self.fentry {
            Value::from(true)
        } else {
            Value::Null
        };
        event.expect("sent", sent)?;
        event.expect("send_error", Value::Null)
    }

    /// Expects the time at which the kernel ends the connection if no answer arrives; computed here
    /// independently of the tracer.
    fn expect_death(&self, settings: &Settings, event: &Event, attempt: u64) -> Result<()> {
        let next = event.number("next_ms")?;
        let (rule, firings) = if settings.user_timeout_ms == 0 {
            (
                "keepalive_probes",
                settings.probes.saturating_sub(attempt) + 1,
            )
        } else {
            let silent = event.number("idle_ms")? + next;
            let missing = settings.user_timeout_ms.saturating_sub(silent);
            (
                "keepalive_user_timeout",
                missing.div_ceil(settings.interval_ms) + 1,
            )
        };
        event.expect("death.rule", rule)?;
        let expected = next + (firings - 1) * settings.interval_ms;
        let tick = self.tick_ms;
        event.expect_within("death.in_ms", expected - tick..=expected + tick)?;
        Ok(())
    }

    /// Expects that the timer sent no probe and waits a full idle time.
    pub fn expect_full_wait(&self, watch: &Watch<'_>, event: &Event) -> Result<()> {
        event.expect_within("next_ms", self.about(watch.settings().time_ms))?;
        expect_no_probe(event)
    }

    /// Expects that the timer waits for the rest of the idle time.
    pub fn expect_remainder(&self, watch: &Watch<'_>, event: &Event) -> Result<()> {
        let idle = event.number("idle_ms")?;
        let time = watch.settings().time_ms;
        ensure!(
            idle < time,
            "`not_idle`, but no segment for {idle} of {time} ms: {event}"
        );
        event.expect_within("next_ms", self.about(time - idle))?;
        event.expect("packets_out", 0)?;
        event.expect("unsent_bytes", 0)?;
        expect_no_probe(event)
    }
}

/// Expects that the timer ran and sent no probe.
pub fn expect_no_probe(event: &Event) -> Result<()> {
    for field in ["attempt", "sent", "send_error"] {
        event.expect(field, Value::Null)?;
    }
    ensure!(
        event.number("probes_out.before")? == event.number("probes_out.after")?,
        "no probe, but probes_out changed: {event}"
    );
    Ok(())
}
