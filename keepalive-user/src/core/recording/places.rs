//! The numbers of loss kinds, of kinds of missed events and of sysctls in a file. A number is never
//! reused; a new variant does not compile until it has one.

use crate::core::{
    event::{LostWhere, MissedWhere, Sysctl},
    wire::Unknown,
};

/// A kind that has a number in a file.
pub trait Numbered: Sized {
    fn number(self) -> u8;

    /// # Errors
    /// If this version has no kind with that number.
    fn of_number(number: u8) -> Result<Self, Unknown>;
}

/// Both directions from one list.
macro_rules! numbered {
    ($name:ident, $field:literal: $($number:literal = $variant:ident,)+) => {
        impl Numbered for $name {
            fn number(self) -> u8 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            fn of_number(number: u8) -> Result<Self, Unknown> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    value => Err(Unknown { field: $field, value }),
                }
            }
        }
    };
}

numbered! {
    LostWhere, "loss kind":
    0 = Ring,
    1 = Decode,
    2 = Tracker,
    3 = Scratch,
    4 = Unreadable,
    5 = Recording,
    6 = Recursion,
    7 = Output,
    8 = Filter,
}

numbered! {
    MissedWhere, "kind of missed event":
    0 = Probe,
    1 = WindowProbe,
    2 = Timer,
    3 = Close,
    4 = Unread,
}

numbered! {
    Sysctl, "sysctl":
    0 = TcpKeepaliveTime,
    1 = TcpKeepaliveIntvl,
    2 = TcpKeepaliveProbes,
    3 = TcpRetries2,
}
