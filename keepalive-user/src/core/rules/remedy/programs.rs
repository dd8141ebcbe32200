//! # The programs
//!
//! One row per program: how TCP keepalive is switched on and timed in its own configuration, for the
//! connections it accepts and for those it opens, with the source. `docs/REMEDIES.md` is this table.
//! Programs without a row, all Go programs among them (their names are arbitrary), get the socket options.

mod languages;
mod servers;

/// All rows; the first that matches is used, so rows with a port precede those of the same name without.
pub fn all() -> impl Iterator<Item = &'static Program> {
    servers::ROWS.iter().chain(languages::ROWS)
}

/// A program, and its settings.
pub struct Program {
    /// The whole of `/proc/PID/comm`, at most 15 bytes; a `#` at the end stands for digits and dots
    /// (`python3.11`). Empty: any program.
    pub names: &'static [&'static str],
    /// Only connections with this port: the local one of accepted connections, else the peer's.
    pub port: Option<u16>,
    pub label: &'static str,
    /// Connections it accepts.
    pub accepted: Option<Setting>,
    /// Connections it opens.
    pub opened: Option<Setting>,
    /// Documentation or source, with the version.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "for docs/REMEDIES.md, which a test compares with the rows"
        )
    )]
    pub source: &'static str,
}

/// How a program switches keepalive on.
pub struct Setting {
    /// The file and the section.
    pub place: &'static str,
    /// What to write there, a line or an argument each, with `{idle}`, `{interval}` (seconds) and
    /// `{count}`.
    pub lines: &'static [&'static str],
    pub scope: Scope,
    /// Whether the listener has the option too, and accepted connections inherit it.
    pub on_listener: bool,
    /// What else there is, with the same placeholders.
    pub note: Option<&'static str>,
}

/// What a setting sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Keepalive and its values.
    Values,
    /// Keepalive; the values are the sysctls of the network namespace.
    Switch,
    /// Nothing: the program always switches keepalive on; the values are the sysctls.
    AlwaysOn,
}

impl Setting {
    const fn values(place: &'static str, lines: &'static [&'static str]) -> Option<Self> {
        Self::new(place, lines, Scope::Values)
    }

    const fn switch(place: &'static str, lines: &'static [&'static str]) -> Option<Self> {
        Self::new(place, lines, Scope::Switch)
    }

    const fn always_on() -> Option<Self> {
        Self::new("", &[], Scope::AlwaysOn)
    }

    const fn new(
        place: &'static str,
        lines: &'static [&'static str],
        scope: Scope,
    ) -> Option<Self> {
        Some(Self {
            place,
            lines,
            scope,
            on_listener: false,
            note: None,
        })
    }

    /// Set on the listener, and inherited.
    const fn inherited(setting: Option<Self>) -> Option<Self> {
        match setting {
            Some(setting) => Some(Self {
                on_listener: true,
                ..setting
            }),
            None => None,
        }
    }

    const fn noted(setting: Option<Self>, note: &'static str) -> Option<Self> {
        match setting {
            Some(setting) => Some(Self {
                note: Some(note),
                ..setting
            }),
            None => None,
        }
    }
}

impl Program {
    /// Whether a process with this name is this program.
    pub fn is_named(&self, comm: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| is_named(name, comm))
    }
}

fn is_named(name: &str, comm: &str) -> bool {
    name.strip_suffix('#').map_or(name == comm, |stem| {
        comm.strip_prefix(stem).is_some_and(|version| {
            version
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        })
    })
}
