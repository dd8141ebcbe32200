//! # The exact remedy
//!
//! What to set, where, and to which value: in the configuration of a known program, else as socket
//! options. What is to be written literally is in backticks.

mod programs;
mod sysctl;

#[cfg(test)]
mod tests;

use self::programs::{Program, Scope, Setting};
pub use self::sysctl::NEW_ONLY;
use super::surroundings::{Role, Surroundings};
use crate::core::{
    arithmetic,
    event::{Keepalive, ListedSocket, Origin, PlannedSettings, Sysctl},
    kernel::RTO_MAX_MS,
};

/// Values of the three options: seconds, seconds, count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    pub idle: u64,
    pub interval: u64,
    pub count: u64,
}

impl Advice {
    /// A dead peer is detected after two minutes.
    pub const ORDINARY: Self = Self {
        idle: 60,
        interval: 10,
        count: 6,
    };

    /// Half of a middlebox's idle timeout, so that one lost probe does no harm. `None` if the timeout is
    /// too short: the options count in seconds, and timers run late.
    pub fn within(timeout_ms: u64) -> Option<Self> {
        // Where the middlebox is patient, a dead peer is still to be found soon.
        const MOST_S: u64 = 300;
        let idle = (timeout_ms / 2000).clamp(1, MOST_S);
        let advice = Self {
            idle,
            interval: (idle / 6).max(1),
            ..Self::ORDINARY
        };
        (gap_ms(idle * 1000, advice.interval * 1000) < timeout_ms).then_some(advice)
    }

    fn of(keepalive: &Keepalive) -> Self {
        Self {
            idle: keepalive.time_ms / 1000,
            interval: keepalive.interval_ms / 1000,
            count: keepalive.probes.into(),
        }
    }

    fn value(self, option: SocketOption) -> u64 {
        match option {
            SocketOption::Idle => self.idle,
            SocketOption::Interval => self.interval,
            SocketOption::Count => self.count,
        }
    }

    fn fill(self, text: &str) -> String {
        SocketOption::ALL
            .into_iter()
            .fold(text.to_owned(), |text, option| {
                text.replace(option.placeholder(), &self.value(option).to_string())
            })
    }
}

/// The longest time between two probes of a healthy idle connection, on any kernel, milliseconds.
pub fn gap_ms(time_ms: u64, interval_ms: u64) -> u64 {
    let settings = PlannedSettings {
        time_ms,
        interval_ms,
        probes: 1,
        user_timeout_ms: 0,
        retries2: 0,
        rto_max_ms: RTO_MAX_MS,
    };
    arithmetic::plan(settings, None).first_probe_ms.most
}

/// One of the three options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketOption {
    Idle,
    Interval,
    Count,
}

impl SocketOption {
    const ALL: [Self; 3] = [Self::Idle, Self::Interval, Self::Count];

    fn name(self) -> &'static str {
        match self {
            Self::Idle => "TCP_KEEPIDLE",
            Self::Interval => "TCP_KEEPINTVL",
            Self::Count => "TCP_KEEPCNT",
        }
    }

    fn placeholder(self) -> &'static str {
        match self {
            Self::Idle => "{idle}",
            Self::Interval => "{interval}",
            Self::Count => "{count}",
        }
    }

    fn sysctl(self) -> Sysctl {
        match self {
            Self::Idle => Sysctl::TcpKeepaliveTime,
            Self::Interval => Sysctl::TcpKeepaliveIntvl,
            Self::Count => Sysctl::TcpKeepaliveProbes,
        }
    }

    fn origin(self, keepalive: &Keepalive) -> Option<Origin> {
        match self {
            Self::Idle => keepalive.time_origin,
            Self::Interval => keepalive.interval_origin,
            Self::Count => keepalive.probes_origin,
        }
    }
}

/// The socket that a remedy is for, and what is known around it.
#[derive(Clone, Copy)]
pub struct Patient<'a> {
    pub socket: &'a ListedSocket,
    pub around: &'a Surroundings,
}

/// What is to be set.
struct Change {
    /// SO_KEEPALIVE is off.
    is_off: bool,
    /// All three values after the change.
    target: Advice,
    /// Options that it changes.
    options: Vec<SocketOption>,
}

impl Patient<'_> {
    /// Switches keepalive on, with these values.
    pub fn switch_on(self, target: Advice) -> String {
        let change = Change {
            is_off: true,
            target,
            options: SocketOption::ALL.to_vec(),
        };
        self.of_program(&change).unwrap_or_else(|| {
            let values = assignments(&change);
            format!("setsockopt SO_KEEPALIVE = 1, {values}")
        })
    }

    /// Changes the options whose values differ; `None` if none does.
    pub fn set(self, keepalive: &Keepalive, target: Advice) -> Option<String> {
        let now = Advice::of(keepalive);
        let changes = |option: &SocketOption| target.value(*option) != now.value(*option);
        let change = Change {
            is_off: false,
            target,
            options: SocketOption::ALL.into_iter().filter(changes).collect(),
        };
        if change.options.is_empty() {
            return None;
        }
        let text = self.of_program(&change);
        Some(text.unwrap_or_else(|| self.by_options(keepalive, &change)))
    }

    /// By socket options, or, if none of them is set on the socket now, by the sysctls that it uses.
    fn by_options(self, keepalive: &Keepalive, change: &Change) -> String {
        let values = format!("setsockopt {}", assignments(change));
        let is_set = |option: &SocketOption| option.origin(keepalive) == Some(Origin::Socket);
        if change.options.iter().any(is_set) {
            return format!("{values} (the program sets it now)");
        }
        format!("{values}, or {}", self.sysctls(change))
    }

    /// In the program's own terms; `None` if there is no row for it.
    fn of_program(self, change: &Change) -> Option<String> {
        let texts: Vec<String> = match self.around.role(self.socket) {
            Role::Listens | Role::Accepted => self.accepted(change).into_iter().collect(),
            Role::Opened => self.opened(change).into_iter().collect(),
            Role::Unknown => {
                let accepted = self.accepted(change).map(|it| (it, "if accepted: "));
                let opened = self.opened(change).map(|it| (it, "if opened by it: "));
                let both = accepted.into_iter().chain(opened);
                both.map(|(text, when)| format!("{when}{text}")).collect()
            }
        };
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn accepted(self, change: &Change) -> Option<String> {
        let (program, setting) = self.accepted_setting()?;
        self.setting(program, setting, change)
    }

    /// The row for the connections that the program accepts.
    pub(super) fn accepted_setting(self) -> Option<(&'static Program, &'static Setting)> {
        let port = self.socket.socket.local.port;
        self.row(port, |program| program.accepted.as_ref())
    }

    fn opened(self, change: &Change) -> Option<String> {
        let port = self.socket.socket.peer.port;
        let (program, setting) = self.row(port, |program| program.opened.as_ref())?;
        self.setting(program, setting, change)
    }

    fn row(
        self,
        port: u16,
        of: impl Fn(&'static Program) -> Option<&'static Setting>,
    ) -> Option<(&'static Program, &'static Setting)> {
        let comm = self.socket.process.as_ref().map_or("", |it| &it.comm);
        programs::all()
            .filter(|program| program.port.is_none_or(|it| it == port) && program.is_named(comm))
            .find_map(|program| Some((program, of(program)?)))
    }

    /// One setting, filled in; `None` if it does not lead to the change.
    fn setting(self, program: &Program, setting: &Setting, change: &Change) -> Option<String> {
        let target = change.target;
        let sets = |option: &SocketOption| {
            let place = option.placeholder();
            setting.lines.iter().any(|line| line.contains(place))
        };
        if setting.scope == Scope::Values && !change.options.iter().any(sets) {
            return None;
        }
        let lines: Vec<String> = setting
            .lines
            .iter()
            .map(|line| format!("`{}`", target.fill(line)))
            .collect();
        let write = format!(
            "{}: in {}: {}",
            program.label,
            setting.place,
            lines.join(", ")
        );
        let text = match (setting.scope, change.is_off) {
            (Scope::Values, _) => write,
            (Scope::Switch, true) => {
                format!(
                    "{write}; it has no values of its own, but uses {}",
                    self.sysctls(change)
                )
            }
            (Scope::AlwaysOn, true) => return None,
            (Scope::Switch | Scope::AlwaysOn, false) => format!(
                "{}: it has no setting for the values, but uses {}",
                program.label,
                self.sysctls(change)
            ),
        };
        let note = setting.note.map(|note| format!(" ({})", target.fill(note)));
        Some(text + &note.unwrap_or_default())
    }

    /// The sysctls that have another value now.
    fn sysctls(self, change: &Change) -> String {
        let now = self.socket.keepalive.as_ref();
        let is_right = |option: SocketOption| {
            now.is_some_and(|now| {
                option.origin(now) != Some(Origin::Socket)
                    && Advice::of(now).value(option) == change.target.value(option)
            })
        };
        let options = change.options.iter().filter(|option| !is_right(**option));
        let values: Vec<(Sysctl, u64)> = options
            .map(|option| (option.sysctl(), change.target.value(*option)))
            .collect();
        if values.is_empty() {
            return "the sysctls, which have these values already".to_owned();
        }
        sysctl::command(self, &values)
    }
}

fn assignments(change: &Change) -> String {
    let options = change.options.iter();
    let texts: Vec<String> = options
        .map(|option| format!("{} = {}", option.name(), change.target.value(*option)))
        .collect();
    texts.join(", ")
}
