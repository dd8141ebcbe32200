//! Each variant has the same name in JSON and in text.

use serde::Serialize;
use strum::IntoEnumIterator;

use super::*;
use crate::core::format::name;

fn assert_same_names<T>()
where
    T: IntoEnumIterator + Serialize + Copy + Into<&'static str>,
{
    for variant in T::iter() {
        assert_eq!(serde_json::to_value(variant).unwrap(), name(variant));
    }
}

#[test]
fn names_are_those_of_the_json() {
    assert_same_names::<Cause>();
    assert_same_names::<Decision>();
    assert_same_names::<ArmedCause>();
    assert_same_names::<TcpState>();
    assert_same_names::<Severity>();
    assert_same_names::<TimerKind>();
    assert_same_names::<Backend>();
}
