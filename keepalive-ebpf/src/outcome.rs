//! What the programs count and return besides records.

use zerocopy::{Immutable, KnownLayout, TryFromBytes};

/// Declares the losses, their number and a list of them, all from one list.
macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the programs could not report: an index into the map `LOSSES`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Loss {
            $($(#[$doc])* $name,)*
        }

        impl Loss {
            pub const ALL: &[Self] = &[$(Self::$name),*];
            pub const COUNT: u32 = Self::ALL.len() as u32;
        }
    };
}

losses! {
    /// The ring was full.
    Ring,
    /// Another program took over the scratch buffer, three times in a row.
    Scratch,
    /// The map `REPORTED` was full: the end of that socket will not be seen.
    Reported,
    /// Kernel memory that must be readable could not be read.
    Unreadable,
    /// Keepalive probes that the kernel counted, among those at [`Loss::Ring`].
    RingProbes,
}

/// Result of the program `poll_socket`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, Immutable, KnownLayout)]
pub enum PollResult {
    /// The socket's record is in the ring.
    Reported = 0,
    /// The socket no longer exists.
    Gone = 1,
    /// The ring has no space for its record.
    RingFull = 2,
}
