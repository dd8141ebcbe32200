//! One name of each variant, however it is asked for.

use serde::Serialize;
use strum::IntoEnumIterator;

use super::*;
use crate::core::words::name;

fn agree<T>()
where
    T: IntoEnumIterator + Serialize + Copy + Into<&'static str>,
{
    for variant in T::iter() {
        assert_eq!(serde_json::to_value(variant).unwrap(), name(variant));
    }
}

#[test]
fn names_are_those_of_the_json() {
    agree::<Cause>();
    agree::<Decision>();
    agree::<ArmedCause>();
    agree::<TcpState>();
    agree::<Severity>();
    agree::<TimerKind>();
    agree::<Backend>();
}
