//! # The kernel's BPF
//!
//! Everything that uses the kernel's BPF: choosing a backend, loading it, verifying the layout, attaching
//! the programs, and reading records. No module outside names aya.

pub mod btf;
mod bytes;
mod cost;
pub mod hooks;
pub mod iterator;
mod kernel;
pub mod layout;
mod misses;
pub mod reason;
pub mod self_test;
pub mod survey;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, RingBuf},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun},
};
use keepalive_ebpf::{Filter, Loss, RawRecord, Record, TimerFunctions};
use rustix::process::{Resource, Rlimit, setrlimit};
use zerocopy::{FromBytes, IntoBytes, TryFromBytes};

pub use self::kernel::Kernel;
pub use keepalive_ebpf::PollResult;

use self::{
    cost::{Cost, Measuring},
    hooks::{Hook, HookNeed, hooks_of, record_flags_of, state_change_of},
    reason::reason,
    self_test::{Depth, Learned},
};
use crate::{
    core::{
        event::{Backend, Refused},
        exit::{Exit, Interrupted, Refusal},
        wire,
    },
    machine::stop,
};

/// The BPF object: all programs of both backends.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/keepalive-bpf"));

/// The options of the command line for loading.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `None` = the best that works.
    pub backend: Option<Backend>,
    pub filter: Filter,
    /// Size of the ring buffer, bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    pub live_answers: bool,
    pub verbose: bool,
    /// Whether the kernel measures the programs' run time.
    pub cost: bool,
    /// BTF to use instead of the kernel's own.
    pub btf: Option<PathBuf>,
}

/// A loaded, verified and attached backend.
pub struct Source {
    pub backend: Backend,
    /// Better backends that were tried.
    pub refused: Vec<Refused>,
    pub learned: Learned,
    /// Optional hooks that could not be attached.
    pub missing: Vec<Missing>,
    /// Dropping it detaches everything.
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    measuring: Option<Measuring>,
    losses: PerCpuArray<MapData, u64>,
    /// Descriptors of the attached programs, to query the kernel.
    programs: Vec<OwnedFd>,
}

/// The program behind [`Source::poll`].
const POLL: &str = "poll_socket";

/// An optional hook that the kernel refused.
pub struct Missing {
    pub hook: Hook,
    pub reason: String,
}

/// Records lost in the kernel so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLosses {
    pub ring: u64,
    pub scratch: u64,
    pub reported: u64,
    pub unreadable: u64,
    /// Keepalive probes among `ring`.
    pub ring_probes: u64,
    /// Program runs that the kernel skipped (`bpf_prog_info.recursion_misses`).
    pub recursion: u64,
}

impl KernelLosses {
    /// The counter of this kind of loss.
    fn of(&mut self, loss: Loss) -> &mut u64 {
        match loss {
            Loss::Ring => &mut self.ring,
            Loss::Scratch => &mut self.scratch,
            Loss::Reported => &mut self.reported,
            Loss::Unreadable => &mut self.unreadable,
            Loss::RingProbes => &mut self.ring_probes,
        }
    }
}

impl Source {
    /// Opens the best backend that works, or the one asked for.
    ///
    /// # Errors
    /// With every backend's reason if none works.
    pub fn open(kernel: &Kernel, options: &Options) -> Result<Self> {
        raise_memlock_limit();
        let mut refused = Vec::new();
        for backend in Backend::candidates(options.backend) {
            match Self::attach(backend, kernel, options) {
                Ok(source) => return Ok(Self { refused, ..source }),
                // A signal also makes the verifier give up.
                Err(_) if stop::is_requested() => return Err(Interrupted.into()),
                Err(error) => refused.push(Refused {
                    backend,
                    reason: reason(&error),
                }),
            }
        }
        let reasons: Vec<String> = refused
            .iter()
            .map(|refused| format!("{}: {}", refused.backend.name(), refused.reason))
            .collect();
        bail!(Refusal::new(
            Exit::Unsupported,
            format!(
                "this kernel refuses to be traced: {}. `keepalive doctor` shows each hook",
                reasons.join("; ")
            )
        ))
    }

    /// Loads one backend, verifies the layout with it, and attaches the rest of its hooks.
    pub fn attach(backend: Backend, kernel: &Kernel, options: &Options) -> Result<Self> {
        let mut ebpf = load(backend, kernel, options)?;
        let btf = kernel.btf.as_ref();
        stop::check()?;
        let learned = prove(backend, &mut ebpf, kernel, Depth::AtOnce)?;
        load_poll(&mut ebpf)?;
        set_timer_functions(&mut ebpf, learned.functions)?;
        let mut missing = Vec::new();
        for hook in hooks_of(backend) {
            stop::check()?;
            if hook.program == state_change_of(backend).program {
                continue;
            }
            if hook.need == HookNeed::LiveAnswers && !options.live_answers {
                continue;
            }
            match (hook.attach(&mut ebpf, btf), hook.need) {
                (Ok(()), _) => {}
                (Err(error), HookNeed::Optional(_)) => {
                    missing.push(Missing {
                        hook: *hook,
                        reason: reason(&error),
                    });
                }
                (Err(error), _) => return Err(error.context(hook.at.describe())),
            }
        }
        let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?)?;
        let losses = PerCpuArray::try_from(take(&mut ebpf, "LOSSES")?)?;
        let measuring = options.cost.then(Measuring::start).transpose()?;
        let programs = misses::loaded(&ebpf)?;
        Ok(Self {
            backend,
            refused: Vec::new(),
            learned,
            missing,
            ebpf,
            ring,
            measuring,
            losses,
            programs,
        })
    }

    /// Whether the programs report the process that accepts a connection.
    pub fn sees_accept(&self) -> bool {
        let is_accept = |hook: &Hook| hook.program == hooks::ACCEPTED;
        hooks_of(self.backend).iter().any(is_accept)
            && !self.missing.iter().any(|missing| is_accept(&missing.hook))
    }

    /// The next record, or an error for bytes that are not a record. `None` if the ring is empty.
    pub fn next(&mut self) -> Option<Result<Record>> {
        let item = self.ring.next()?;
        let Ok(raw) = RawRecord::read_from_bytes(&item) else {
            return Some(Err(anyhow::anyhow!("a record of {} bytes", item.len())));
        };
        Some(wire::record(&raw).copied().context("a record"))
    }

    /// Has the socket at this address reported as a record of [`keepalive_ebpf::Kind::Polled`].
    ///
    /// # Errors
    /// If the kernel does not run the program.
    pub fn poll(&self, sk: u64) -> Result<PollResult> {
        let program = self
            .ebpf
            .program(POLL)
            .context("the BPF object lost a program")?;
        let program: &RawTracePoint = program.try_into()?;
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = sk;
        let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let polled = PollResult::try_read_from_bytes(result.return_value.as_bytes());
        polled.map_err(|_| anyhow::anyhow!("unknown result {} of {POLL}", result.return_value))
    }

    /// The ring's descriptor, to poll.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// The run time of each program so far; `None` unless it is measured.
    pub fn costs(&self) -> Option<Vec<Cost>> {
        self.measuring.as_ref().map(|_| Cost::of(&self.ebpf))
    }

    /// The records that the programs could not report so far, on all CPUs.
    pub fn losses(&self) -> Result<KernelLosses> {
        let mut losses = KernelLosses::default();
        for &loss in Loss::ALL {
            *losses.of(loss) = self.losses.get(&(loss as u32), 0)?.iter().sum();
        }
        let skipped = self.programs.iter().map(misses::recursion);
        losses.recursion = skipped.sum::<Result<u64>>()?;
        Ok(losses)
    }

    /// The diagnostics of the programs (`-v`).
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).context("cannot read the programs' diagnostics")
    }
}

fn load(backend: Backend, kernel: &Kernel, options: &Options) -> Result<Ebpf> {
    let flags = record_flags_of(backend);
    let verbose = u32::from(options.verbose);
    EbpfLoader::new()
        .btf(kernel.btf.as_ref())
        .override_global("LAYOUT", kernel.resolved.layout.as_bytes(), true)
        .override_global("FILTER", options.filter.as_bytes(), true)
        .override_global("BACKEND_FLAGS", flags.as_bytes(), true)
        .override_global("VERBOSE", &verbose, true)
        .map_max_entries("EVENTS", options.ring_bytes)
        .load(OBJECT)
        .context("cannot create the BPF maps")
}

/// Attaches the two programs of the self-test and runs it; then detaches the one that only the test needs.
fn prove(backend: Backend, ebpf: &mut Ebpf, kernel: &Kernel, depth: Depth) -> Result<Learned> {
    let btf = kernel.btf.as_ref();
    let state_change = state_change_of(backend);
    state_change
        .attach(ebpf, btf)
        .with_context(|| state_change.at.describe())?;
    let test = hooks::SELF_TEST;
    test.attach(ebpf, btf).with_context(|| test.at.describe())?;
    let learned = self_test::run(ebpf, &kernel.resolved.layout, depth);
    let program = ebpf
        .program_mut(test.program)
        .context("the BPF object lost a program")?;
    let program: &mut RawTracePoint = program.try_into()?;
    program.unload()?;
    learned
}

/// Loads the program that BPF_PROG_TEST_RUN runs; it is not attached.
fn load_poll(ebpf: &mut Ebpf) -> Result<()> {
    let program = ebpf
        .program_mut(POLL)
        .context("the BPF object has no program poll_socket")?;
    let program: &mut RawTracePoint = program.try_into()?;
    program.load().context("the program that reads a socket")
}

fn set_timer_functions(ebpf: &mut Ebpf, functions: TimerFunctions) -> Result<()> {
    let map = ebpf
        .map_mut("TIMER_FUNCTIONS")
        .context("the BPF object has no map TIMER_FUNCTIONS")?;
    let mut map: Array<_, [u8; size_of::<TimerFunctions>()]> = Array::try_from(map)?;
    let mut bytes = [0; size_of::<TimerFunctions>()];
    bytes.copy_from_slice(functions.as_bytes());
    Ok(map.set(0, bytes, 0)?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the BPF object has no map {name}"))
}

/// Up to 5.10 the kernel charges maps to RLIMIT_MEMLOCK. If raising the limit is not permitted, it stays;
/// if it is too low, the creation of the maps fails with an error.
fn raise_memlock_limit() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
}
