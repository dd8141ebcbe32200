//! # The hooks
//!
//! Which programs make up a backend, where each attaches, and what is lost without it. The
//! programs themselves are in `keepalive-ebpf/src/bpf/`, under the same names.

use anyhow::{Context, Result};
use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, RawTracePoint},
};
use keepalive_ebpf::RecordFlags;

use crate::core::event::Backend;

/// Where a program attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Entry of a kernel function, by BPF trampoline.
    Entry(&'static str),
    /// Exit of a kernel function, by BPF trampoline.
    Exit(&'static str),
    /// A tracepoint, its arguments checked against BTF.
    TypedTracepoint(&'static str),
    /// A tracepoint, its arguments raw.
    RawTracepoint(&'static str),
}

/// Whether a backend can do without a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookNeed {
    Required,
    /// What is lost without it.
    Optional(&'static str),
    /// Only with `--live-answers`: it is on a hot path.
    LiveAnswers,
}

#[derive(Clone, Copy, Debug)]
pub struct Hook {
    pub program: &'static str,
    pub at: At,
    pub need: HookNeed,
}

const fn hook(program: &'static str, at: At, need: HookNeed) -> Hook {
    Hook { program, at, need }
}

/// The program that reports the process that accepts a connection.
pub const ACCEPTED: &str = "accepted";

const FENTRY_STATE_CHANGE: Hook = hook(
    "state_change",
    At::TypedTracepoint("inet_sock_set_state"),
    HookNeed::Required,
);

const TRACEPOINT_STATE_CHANGE: Hook = hook(
    "tp_state_change",
    At::RawTracepoint("inet_sock_set_state"),
    HookNeed::Required,
);

/// No measured kernel inlines or splits any of these functions.
const FENTRY: &[Hook] = &[
    hook(
        "keepalive_timer_enter",
        At::Entry("tcp_keepalive_timer"),
        HookNeed::Required,
    ),
    hook(
        "keepalive_timer_exit",
        At::Exit("tcp_keepalive_timer"),
        HookNeed::Required,
    ),
    hook(
        "write_wakeup_exit",
        At::Exit("tcp_write_wakeup"),
        HookNeed::Required,
    ),
    FENTRY_STATE_CHANGE,
    hook(
        "write_timer_enter",
        At::Entry("tcp_write_timer_handler"),
        HookNeed::Optional("zero-window probes, and what a retransmission timeout killed"),
    ),
    hook(
        "write_timer_exit",
        At::Exit("tcp_write_timer_handler"),
        HookNeed::Optional("zero-window probes"),
    ),
    hook(
        "set_keepalive",
        At::Entry("tcp_set_keepalive"),
        HookNeed::Optional("SO_KEEPALIVE switched on or off"),
    ),
    hook(
        "set_keepidle",
        At::Exit("tcp_sock_set_keepidle_locked"),
        HookNeed::Optional("TCP_KEEPIDLE changed"),
    ),
    hook(
        ACCEPTED,
        At::Exit("inet_accept"),
        HookNeed::Optional(
            "the process that accepts a connection, before the next pass over all descriptors",
        ),
    ),
    hook("ack_enter", At::Entry("tcp_ack"), HookNeed::LiveAnswers),
    hook("ack_exit", At::Exit("tcp_ack"), HookNeed::LiveAnswers),
];

const TRACEPOINT: &[Hook] = &[
    hook(
        "tp_timer_expire_entry",
        At::RawTracepoint("timer_expire_entry"),
        HookNeed::Required,
    ),
    hook(
        "tp_timer_expire_exit",
        At::RawTracepoint("timer_expire_exit"),
        HookNeed::Required,
    ),
    TRACEPOINT_STATE_CHANGE,
    hook(
        "tp_timer_start",
        At::RawTracepoint("timer_start"),
        HookNeed::Optional("SO_KEEPALIVE switched on, TCP_KEEPIDLE changed"),
    ),
];

/// Attached while the self-test runs, with either backend.
pub const SELF_TEST: Hook = hook(
    "self_test_timer_start",
    At::RawTracepoint("timer_start"),
    HookNeed::Required,
);

/// The hooks of a backend.
pub fn hooks_of(backend: Backend) -> &'static [Hook] {
    match backend {
        Backend::Fentry => FENTRY,
        Backend::Tracepoint => TRACEPOINT,
    }
}

/// The hook whose program also reads the socket of the self-test.
pub fn state_change_of(backend: Backend) -> Hook {
    match backend {
        Backend::Fentry => FENTRY_STATE_CHANGE,
        Backend::Tracepoint => TRACEPOINT_STATE_CHANGE,
    }
}

/// The value of `flags` in every record of a backend.
pub fn record_flags_of(backend: Backend) -> RecordFlags {
    match backend {
        Backend::Fentry => RecordFlags::WAKEUP_WATCHED,
        Backend::Tracepoint => RecordFlags::empty(),
    }
}

impl At {
    /// The attach point as a kernel engineer would write it.
    pub fn describe(self) -> String {
        match self {
            Self::Entry(function) => format!("fentry {function}"),
            Self::Exit(function) => format!("fexit {function}"),
            Self::TypedTracepoint(name) => format!("tp_btf {name}"),
            Self::RawTracepoint(name) => format!("raw_tp {name}"),
        }
    }
}

impl Hook {
    /// Loads the program into the kernel and attaches it.
    pub fn attach(&self, ebpf: &mut Ebpf, btf: Option<&Btf>) -> Result<()> {
        let program = ebpf
            .program_mut(self.program)
            .with_context(|| format!("the BPF object has no program {}", self.program))?;
        let btf = || btf.context("this kernel shows no BTF (/sys/kernel/btf/vmlinux)");
        match self.at {
            At::Entry(function) => {
                let program: &mut FEntry = program.try_into()?;
                program.load(function, btf()?)?;
                program.attach()?;
            }
            At::Exit(function) => {
                let program: &mut FExit = program.try_into()?;
                program.load(function, btf()?)?;
                program.attach()?;
            }
            At::TypedTracepoint(name) => {
                let program: &mut BtfTracePoint = program.try_into()?;
                program.load(name, btf()?)?;
                program.attach()?;
            }
            At::RawTracepoint(name) => {
                let program: &mut RawTracePoint = program.try_into()?;
                program.load()?;
                program.attach(name)?;
            }
        }
        Ok(())
    }
}
