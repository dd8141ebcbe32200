//! The outcomes by which a report sorts and counts sockets.

use strum::{EnumIter, IntoStaticStr};

use super::mark::Mark;
use crate::core::event::Meaning;

/// The outcome of a socket, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    TimedOut,
    ResetOrAborted,
    /// Open, with a problem now or earlier.
    Troubled,
    Open,
    Orderly,
    Unknown,
}

impl From<Meaning> for Outcome {
    fn from(meaning: Meaning) -> Self {
        match meaning {
            Meaning::TimedOut => Self::TimedOut,
            Meaning::ResetOrAborted => Self::ResetOrAborted,
            Meaning::Orderly => Self::Orderly,
            Meaning::Unknown => Self::Unknown,
        }
    }
}

impl Outcome {
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Troubled => "open, with problems",
            Self::Open => "open, no problems",
            Self::TimedOut | Self::ResetOrAborted | Self::Orderly | Self::Unknown => {
                self.mark().label()
            }
        }
    }

    /// The mark of the outcome.
    pub fn mark(self) -> Mark {
        match self {
            Self::TimedOut => Mark::of_meaning(Meaning::TimedOut),
            Self::ResetOrAborted => Mark::of_meaning(Meaning::ResetOrAborted),
            Self::Troubled => Mark::AnotherProbe,
            Self::Open => Mark::Answer,
            Self::Orderly => Mark::of_meaning(Meaning::Orderly),
            Self::Unknown => Mark::of_meaning(Meaning::Unknown),
        }
    }
}
