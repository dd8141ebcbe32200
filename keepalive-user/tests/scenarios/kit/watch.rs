//! Follows one socket: its events in order. Besides the checks of the scenario, each event is
//! checked for the socket's identity, its owner and its keepalive settings.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::event::{Event, Key};
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, Tcp};
use crate::kit::tracer::{PATIENCE, Tracer};

/// The `keepalive` object an event must show.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub enabled: bool,
    pub time_ms: u64,
    pub time_origin: &'static str,
    pub interval_ms: u64,
    pub interval_origin: &'static str,
    pub probes: u64,
    pub probes_origin: &'static str,
    pub user_timeout_ms: u64,
}

impl Settings {
    /// The settings of a new socket in a new namespace.
    pub const OFF: Self = Self {
        enabled: false,
        time_ms: 7_200_000,
        time_origin: "sysctl",
        interval_ms: 75_000,
        interval_origin: "sysctl",
        probes: 9,
        probes_origin: "sysctl",
        user_timeout_ms: 0,
    };
}

impl From<Keepalive> for Settings {
    fn from(keepalive: Keepalive) -> Self {
        Self {
            enabled: true,
            time_ms: u64::from(keepalive.idle) * 1000,
            time_origin: "socket",
            interval_ms: u64::from(keepalive.interval) * 1000,
            interval_origin: "socket",
            probes: u64::from(keepalive.probes),
            probes_origin: "socket",
            user_timeout_ms: u64::from(keepalive.user_timeout_ms),
        }
    }
}

impl From<Settings> for Value {
    fn from(settings: Settings) -> Self {
        json!({
            "enabled": settings.enabled,
            "time_ms": settings.time_ms,
            "time_origin": settings.time_origin,
            "interval_ms": settings.interval_ms,
            "interval_origin": settings.interval_origin,
            "probes": settings.probes,
            "probes_origin": settings.probes_origin,
            "user_timeout_ms": settings.user_timeout_ms,
        })
    }
}

/// Whether the tracer must have resolved the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process has the socket open.
    Us,
    /// No process has it open (no longer, or not yet): this process or null.
    UsOrUnknown,
    /// It changes hands.
    Any,
}

/// Events of one socket.
pub struct Watch<'t> {
    tracer: &'t Tracer,
    pub key: Key,
    addresses: (IpAddr, IpAddr),
    cookie: Cell<Option<String>>,
    settings: Cell<Settings>,
    owner: Cell<Owner>,
    next: Cell<usize>,
}

impl<'t> Watch<'t> {
    /// Begins with the first event of this socket.
    pub fn new(tracer: &'t Tracer, socket: &Tcp) -> Result<Self> {
        let cookie = socket.cookie()?;
        Self::between(tracer, socket.local()?, socket.peer()?, Some(cookie))
    }

    /// The same for a socket of which this process has no descriptor.
    pub fn between(
        tracer: &'t Tracer,
        local: SocketAddr,
        peer: SocketAddr,
        cookie: Option<String>,
    ) -> Result<Self> {
        Ok(Self {
            tracer,
            key: Key {
                netns: Namespace::current()?.inode,
                local_port: local.port(),
                peer_port: peer.port(),
            },
            addresses: (local.ip().to_canonical(), peer.ip().to_canonical()),
            cookie: Cell::new(cookie),
            settings: Cell::new(Settings::OFF),
            owner: Cell::new(Owner::Us),
            next: Cell::new(0),
        })
    }

    /// Arms the socket; events taken from now on must show these settings.
    pub fn arm(&self, socket: &Tcp, keepalive: Keepalive) -> Result<()> {
        self.expect_settings(keepalive.into());
        socket.arm(keepalive)
    }

    pub fn expect_settings(&self, settings: Settings) {
        self.settings.set(settings);
    }

    pub fn settings(&self) -> Settings {
        self.settings.get()
    }

    /// Events taken from now on need not name the owner.
    pub fn owner_may_be_unknown(&self) {
        self.owner.set(Owner::UsOrUnknown);
    }

    /// Events taken from now on may name any process, or none.
    pub fn owner_may_be_any(&self) {
        self.owner.set(Owner::Any);
    }

    pub fn owner_must_be_known(&self) {
        self.owner.set(Owner::Us);
    }

    /// Waits for the next event that satisfies the condition, and skips others.
    pub fn next(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        self.next_within(PATIENCE, what, wanted)
    }

    pub fn next_within(
        &self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let (number, event) = self
            .tracer
            .wait_for(self.key, self.next.get(), patience, wanted)
            .with_context(|| format!("waited {patience:?} for {what}"))?;
        self.next.set(number + 1);
        self.check(&event)?;
        Ok(event)
    }

    /// The next run of the keepalive timer, whatever it decides.
    pub fn timer(&self) -> Result<Event> {
        self.next("a run of the keepalive timer", |event| event.is("timer"))
    }

    /// The next run of the keepalive timer that decides this.
    pub fn decision(&self, decision: &str) -> Result<Event> {
        self.next(&format!("the timer's decision {decision}"), |event| {
            event.is_timer(decision)
        })
    }

    pub fn armed(&self, cause: &str) -> Result<Event> {
        self.next(&format!("armed by {cause}"), |event| {
            event.is("armed") && event.text("cause") == cause
        })
    }

    pub fn answer(&self) -> Result<Event> {
        self.next("an answer", |event| event.is("answer"))
    }

    pub fn window_probe(&self) -> Result<Event> {
        self.next("a zero-window probe", |event| event.is("window_probe"))
    }

    /// The `closed` event: checks its cause, and its totals against the earlier events.
    pub fn closed(&self, cause: &str) -> Result<Event> {
        let event = self.next("the end of the socket", |event| event.is("closed"))?;
        event.expect("cause", cause)?;
        let events = self.events();
        let count = |wanted: &dyn Fn(&Event) -> bool| {
            events.iter().filter(|event| wanted(event)).count() as u64
        };
        let answers = |probe: &'static str| {
            count(&move |event: &Event| event.is("answer") && event.text("probe") == probe)
        };
        event.expect("timers", count(&|event| event.is("timer")))?;
        event.expect(
            "keepalive_probes",
            count(&|event| event.is_timer("probe_sent")),
        )?;
        event.expect("keepalive_answers", answers("keepalive"))?;
        event.expect("window_answers", answers("window"))?;
        event.expect("window_probes", count(&|event| event.is("window_probe")))?;
        let worst = events
            .iter()
            .filter(|event| event.is("answer"))
            .filter_map(|event| event.get("rtt_us").as_u64())
            .max();
        event.expect("worst_rtt_us", worst.map_or(Value::Null, Value::from))?;
        Ok(event)
    }

    /// All events of this socket so far.
    pub fn events(&self) -> Vec<Event> {
        self.tracer.events_of(self.key)
    }

    pub fn count(&self, wanted: impl Fn(&Event) -> bool) -> u64 {
        self.events().iter().filter(|event| wanted(event)).count() as u64
    }

    /// Fails if such an event has arrived.
    pub fn never(&self, what: &str, unwanted: impl Fn(&Event) -> bool) -> Result<()> {
        let found = self.events().into_iter().find(unwanted);
        ensure!(
            found.is_none(),
            "unexpected: {what}: {}",
            found.map(|event| event.to_string()).unwrap_or_default()
        );
        Ok(())
    }

    /// The checks that every event of this socket must pass at this point of the scenario.
    fn check(&self, event: &Event) -> Result<()> {
        self.check_identity(event)?;
        self.check_owner(event)?;
        event.expect("keepalive", self.settings.get())
    }

    fn check_identity(&self, event: &Event) -> Result<()> {
        let (local, peer) = self.addresses;
        let family = if local.is_ipv4() { "ipv4" } else { "ipv6" };
        event.expect("socket.family", family)?;
        event.expect("socket.local.address", local.to_string())?;
        event.expect("socket.peer.address", peer.to_string())?;
        let cookie = self.cookie.take();
        let result = match &cookie {
            Some(cookie) => event.expect("socket.cookie", cookie.as_str()),
            None => Ok(()),
        };
        self.cookie.set(cookie);
        result?;
        let first = self.events().first().cloned();
        match first {
            Some(first) => event.expect("socket.id", first.number("socket.id")?),
            None => Ok(()),
        }
    }

    fn check_owner(&self, event: &Event) -> Result<()> {
        let is_null = event.present("process")?.is_null();
        match self.owner.get() {
            Owner::UsOrUnknown if is_null => return Ok(()),
            Owner::Any => return Ok(()),
            Owner::Us | Owner::UsOrUnknown => {}
        }
        let comm = std::fs::read_to_string("/proc/self/comm").context("own comm")?;
        event.expect("process.pid", std::process::id())?;
        event.expect("process.comm", comm.trim_end())
    }
}
