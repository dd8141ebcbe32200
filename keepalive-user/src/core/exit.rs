//! # Exit codes
//!
//! Defines what each exit code means, and the error that carries one through `anyhow`.

use std::fmt;

/// The exit code of the process. clap exits with 2 on usage errors as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success; also if the reader of the output closed it.
    Success = 0,
    /// A failure at run time; also if output was abandoned because its reader did not read it.
    Failure = 1,
    /// The command line names something that does not exist.
    Usage = 2,
    /// A capability is missing; `audit --fail-on` could not judge everything.
    NotPermitted = 3,
    /// This kernel, or its policy, refuses every backend.
    Unsupported = 4,
    /// `audit --fail-on` found what it was asked to fail on.
    Findings = 5,
}

/// An error with its own exit code.
#[derive(Debug)]
pub struct Refusal {
    pub exit: Exit,
    pub message: String,
}

impl Refusal {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// The session was interrupted before it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted during start-up: nothing was observed")
    }
}

impl std::error::Error for Interrupted {}

/// The first failure; a broken pipe is returned only if there is no other failure.
pub fn worst<const N: usize>(outcomes: [anyhow::Result<()>; N]) -> anyhow::Result<()> {
    let mut reader_left = Ok(());
    for outcome in outcomes {
        match outcome {
            Err(error) if is_broken_pipe(&error) => reader_left = reader_left.and(Err(error)),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
    }
    reader_left
}

/// The code for an error: that of the first [`Refusal`] in its chain, success for a broken pipe or
/// an interrupt.
pub fn code(error: &anyhow::Error) -> Exit {
    if is_broken_pipe(error) || error.is::<Interrupted>() {
        return Exit::Success;
    }
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Refusal>())
        .map_or(Exit::Failure, |refusal| refusal.exit)
}

/// Whether the reader of the output has closed it.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
