//! The only table of scenarios that a kernel or a backend cannot pass, with the reasons.
//!
//! Wherever possible a probe of the kernel decides whether a row applies: on a kernel that has the
//! feature the scenario must pass.

use std::path::Path;

use rustix::io::Errno;

use crate::kit::browser::CHROMIUM;
use crate::kit::expect::Facts;
use crate::kit::socket::{LOCALHOST, Tcp};
use crate::remedies::DISTRIBUTION;
use crate::top::TMUX;
use crate::trace::cgroups;
use crate::trace::classics::{APACHE, POSTGRESQL, REDIS};

/// A scenario that may not apply.
struct Exception {
    scenario: &'static str,
    applies: fn(Facts) -> bool,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        scenario: "keepalive_switched_off",
        applies: on_tracepoint,
        reason: "switching off deletes the timer in tcp_set_keepalive; no tracepoint reports why a timer was deleted",
    },
    Exception {
        scenario: "live_answers",
        applies: on_tracepoint,
        reason: "--live-answers hooks tcp_ack, which needs fentry",
    },
    Exception {
        scenario: "classic_apache",
        applies: |_| !Path::new(APACHE).exists(),
        reason: NO_SERVERS,
    },
    Exception {
        scenario: "classic_redis",
        applies: |_| !Path::new(REDIS).exists(),
        reason: NO_SERVERS,
    },
    Exception {
        scenario: "classic_postgresql",
        applies: |_| !Path::new(POSTGRESQL).exists(),
        reason: NO_SERVERS,
    },
    Exception {
        scenario: "audit_conntrack",
        applies: |_| !Path::new(DISTRIBUTION).exists(),
        reason: "the guest has no nft to create rules that track; `cargo xtask test` installs it live",
    },
    Exception {
        scenario: "remedies",
        applies: |_| !Path::new(DISTRIBUTION).exists(),
        reason: NO_SERVERS,
    },
    Exception {
        scenario: "cgroup_filter",
        applies: |_| cgroups::mounted().is_none(),
        reason: "no cgroup2 is mounted here",
    },
    Exception {
        scenario: "report_in_browser",
        applies: |_| !Path::new(CHROMIUM).exists(),
        reason: NO_SERVERS,
    },
    Exception {
        scenario: "top",
        applies: |_| !Path::new(TMUX).exists(),
        reason: NO_TMUX,
    },
    Exception {
        scenario: "top_leaves_the_terminal_clean",
        applies: |_| !Path::new(TMUX).exists(),
        reason: NO_TMUX,
    },
    Exception {
        scenario: "mptcp",
        applies: |_| without_mptcp(),
        reason: "this kernel refuses socket(IPPROTO_MPTCP)",
    },
];

const NO_SERVERS: &str = "the guest contains no distribution, and so no servers and no browser; `cargo xtask test` installs them live";

const NO_TMUX: &str = "the guest has no tmux; `cargo xtask test` installs it live";

/// The scenarios that the table names.
pub fn names() -> impl Iterator<Item = &'static str> {
    EXCEPTIONS.iter().map(|exception| exception.scenario)
}

/// Why a scenario does not apply to this kernel and backend; `None` if it must pass.
pub fn excuse(scenario: &str, facts: Facts) -> Option<&'static str> {
    EXCEPTIONS
        .iter()
        .find(|exception| exception.scenario == scenario && (exception.applies)(facts))
        .map(|exception| exception.reason)
}

/// Why a backend cannot load on this kernel; `None` if it must load.
///
/// The matrix has no such exceptions: its kernels are stock and allow everything. The running
/// kernel may be hardened; then the program load fails with EPERM even for root.
pub fn backend_excuse(backend: &str, kernel: Option<&str>, error: &str) -> Option<&'static str> {
    let no_btf = !Path::new("/sys/kernel/btf/vmlinux").exists();
    let forbidden = error.contains("BPF_PROG_LOAD: Operation not permitted");
    match backend {
        "fentry" if no_btf => Some("kernel without BTF: no BPF trampolines"),
        "fentry" if kernel == Some("live") && forbidden => {
            Some("the running kernel's policy forbids fentry programs, also for root")
        }
        _ => None,
    }
}

fn on_tracepoint(facts: Facts) -> bool {
    !facts.fentry
}

pub fn without_mptcp() -> bool {
    let Err(error) = Tcp::new_mptcp(LOCALHOST) else {
        return false;
    };
    let errno = error.downcast_ref().and_then(Errno::from_io_error);
    matches!(
        errno,
        Some(Errno::PROTONOSUPPORT | Errno::NOPROTOOPT | Errno::INVAL)
    )
}
