//! The CPU time of the programs, as the kernel measures it (`BPF_ENABLE_STATS`); the measurement itself
//! adds two reads of the clock, about 30 ns, to each run.

use std::{fmt, os::fd::OwnedFd};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{Program, ProgramInfo},
    sys::{Stats, enable_stats},
};

/// The kernel measures as long as this value exists.
pub struct Measuring(#[expect(dead_code, reason = "held, not read")] OwnedFd);

impl Measuring {
    /// Since 5.8.
    pub fn start() -> Result<Self> {
        Ok(Self(
            enable_stats(Stats::RunTime).context("this kernel does not measure BPF programs")?,
        ))
    }
}

/// One attached program.
pub struct Cost {
    program: String,
    runs: u64,
    nanoseconds: u128,
    /// Instructions the verifier walked; unknown before 5.16.
    verified: Option<u32>,
}

impl Cost {
    /// All programs that are loaded.
    pub fn of(ebpf: &Ebpf) -> Vec<Self> {
        ebpf.programs()
            .filter_map(|(name, program)| Some((name, info(program)?)))
            .map(|(name, info)| Self {
                program: name.to_owned(),
                runs: info.run_count(),
                nanoseconds: info.run_time().as_nanos(),
                verified: info.verified_instruction_count(),
            })
            .collect()
    }
}

/// The kernel's information about a program; `None` if it is not loaded.
fn info(program: &Program) -> Option<ProgramInfo> {
    program.info().ok()
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.nanoseconds.checked_div(self.runs.into()).unwrap_or(0);
        write!(
            f,
            "{:22} {:>9} runs, {each:>5} ns each",
            self.program, self.runs
        )?;
        match self.verified {
            Some(verified) => write!(f, ", {verified} instructions verified"),
            None => Ok(()),
        }
    }
}
