//! # Exit codes
//!
//! The one place that says what a number means, and the error that carries one through `anyhow`.

use std::fmt;

/// What the process exits with. Usage errors are clap's, which uses 2 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well, or the reader of our output left.
    Success = 0,
    /// Something failed while running; output was abandoned because its reader did not take it.
    Failure = 1,
    /// The command line asks for something that does not exist.
    Usage = 2,
    /// A capability is missing; `audit --fail-on` could not judge everything.
    NotPermitted = 3,
    /// This kernel, or its policy, refuses every way to observe it.
    Unsupported = 4,
    /// `audit --fail-on` found what it was to fail on.
    Findings = 5,
}

/// An error with an exit code of its own.
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

/// The session had to stop before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted during start-up: nothing was observed")
    }
}

impl std::error::Error for Interrupted {}

/// The first failure; one that is not the reader's leaving goes before that.
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

/// Whether the reader of our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
