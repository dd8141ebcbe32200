//! JSON, one object per line.
//!
//! This serializer replaces `serde_json` for two reasons. Text in an event comes from processes, and
//! terminals interpret control characters: all of them are escaped, where `serde_json` escapes only
//! the first 32. And the names of fields, which are most of a line, need no escaping and are copied.

use std::{
    fmt::{self, Display, Write as _},
    io::Write,
};

use anyhow::{Context, Result};
use serde::{
    Serialize, Serializer,
    ser::{
        Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
        SerializeTuple,
    },
};

use crate::core::format::is_harmful;

/// Capacity that holds most lines without a reallocation.
const USUAL: usize = 1024;

/// Writes one line.
pub fn json_line(value: &impl Serialize, writer: &mut impl Write) -> Result<()> {
    let mut line = Vec::with_capacity(USUAL);
    value.serialize(&mut Json(&mut line))?;
    line.push(b'\n');
    writer.write_all(&line).context("cannot write")
}

/// The buffer of the line.
struct Json<'a>(&'a mut Vec<u8>);

/// A type that events do not contain.
#[derive(Debug)]
struct Unsupported(String);

impl Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot be written as JSON: {}", self.0)
    }
}

impl std::error::Error for Unsupported {}

impl serde::ser::Error for Unsupported {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Json<'_> {
    fn integer(&mut self, value: impl itoa::Integer) {
        self.0
            .extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Appends the contents of a string.
    fn escaped(&mut self, text: &str) {
        // Checks all bytes without a branch for each: almost no text needs escaping.
        let special = text.bytes().fold(false, |special, byte| {
            special | (byte.wrapping_sub(b' ') >= 0x5f) | (byte == b'"') | (byte == b'\\')
        });
        if !special {
            self.0.extend_from_slice(text.as_bytes());
            return;
        }
        for character in text.chars() {
            match character {
                '"' => self.0.extend_from_slice(b"\\\""),
                '\\' => self.0.extend_from_slice(b"\\\\"),
                '\n' => self.0.extend_from_slice(b"\\n"),
                '\r' => self.0.extend_from_slice(b"\\r"),
                '\t' => self.0.extend_from_slice(b"\\t"),
                '\u{8}' => self.0.extend_from_slice(b"\\b"),
                '\u{c}' => self.0.extend_from_slice(b"\\f"),
                harmful if is_harmful(harmful) => {
                    for unit in harmful.encode_utf16(&mut [0; 2]) {
                        let digits = [12, 8, 4, 0]
                            .map(|shift| b"0123456789abcdef"[usize::from((*unit >> shift) & 0xf)]);
                        self.0.extend_from_slice(b"\\u");
                        self.0.extend_from_slice(&digits);
                    }
                }
                harmless => {
                    let mut bytes = [0; 4];
                    let text = harmless.encode_utf8(&mut bytes);
                    self.0.extend_from_slice(text.as_bytes());
                }
            }
        }
    }
}

impl fmt::Write for Json<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.escaped(text);
        Ok(())
    }
}

/// An object or a list being written.
struct Members<'a, 'b> {
    json: &'a mut Json<'b>,
    is_first: bool,
    close: &'static [u8],
}

impl<'a, 'b> Members<'a, 'b> {
    fn open(json: &'a mut Json<'b>, open: &[u8], close: &'static [u8]) -> Self {
        json.0.extend_from_slice(open);
        Self {
            json,
            is_first: true,
            close,
        }
    }

    fn separate(&mut self) {
        if !self.is_first {
            self.json.0.push(b',');
        }
        self.is_first = false;
    }

    /// A member whose name needs no escaping.
    fn named<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unsupported> {
        self.separate();
        self.json.0.push(b'"');
        self.json.0.extend_from_slice(name.as_bytes());
        self.json.0.extend_from_slice(b"\":");
        value.serialize(&mut *self.json)
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unsupported> {
        self.separate();
        value.serialize(&mut *self.json)
    }

    fn close(self) -> Result<(), Unsupported> {
        self.json.0.extend_from_slice(self.close);
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), Unsupported> {
            self.integer(value);
            Ok(())
        })*
    };
}

impl<'a, 'b> Serializer for &'a mut Json<'b> {
    type Ok = ();
    type Error = Unsupported;
    type SerializeSeq = Members<'a, 'b>;
    type SerializeTuple = Members<'a, 'b>;
    type SerializeTupleStruct = Impossible<(), Unsupported>;
    type SerializeTupleVariant = Impossible<(), Unsupported>;
    type SerializeMap = Members<'a, 'b>;
    type SerializeStruct = Members<'a, 'b>;
    type SerializeStructVariant = Members<'a, 'b>;

    integers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );

    fn serialize_bool(self, value: bool) -> Result<(), Unsupported> {
        self.0
            .extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Unsupported> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Unsupported> {
        if !value.is_finite() {
            return self.serialize_unit();
        }
        write!(self, "{value}").map_err(|error| Unsupported(error.to_string()))
    }

    fn serialize_char(self, value: char) -> Result<(), Unsupported> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Unsupported> {
        self.0.push(b'"');
        self.escaped(value);
        self.0.push(b'"');
        Ok(())
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Unsupported> {
        self.0.push(b'"');
        write!(self, "{value}").map_err(|error| Unsupported(error.to_string()))?;
        self.0.push(b'"');
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unsupported> {
        Err(Unsupported("bytes".to_owned()))
    }

    fn serialize_none(self) -> Result<(), Unsupported> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unsupported> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unsupported> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unsupported> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Unsupported> {
        self.0.push(b'"');
        self.0.extend_from_slice(variant.as_bytes());
        self.0.push(b'"');
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unsupported> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Unsupported> {
        let mut object = Members::open(self, b"{", b"}");
        object.named(variant, value)?;
        object.close()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Unsupported> {
        Ok(Members::open(self, b"[", b"]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unsupported> {
        Ok(Members::open(self, b"[", b"]"))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Unsupported> {
        Err(Unsupported(name.to_owned()))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unsupported> {
        Err(Unsupported(name.to_owned()))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unsupported> {
        Ok(Members::open(self, b"{", b"}"))
    }

    fn serialize_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStruct, Unsupported> {
        Ok(Members::open(self, b"{", b"}"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unsupported> {
        self.0.extend_from_slice(b"{\"");
        self.0.extend_from_slice(variant.as_bytes());
        Ok(Members::open(self, b"\":{", b"}}"))
    }
}

impl SerializeSeq for Members<'_, '_> {
    type Ok = ();
    type Error = Unsupported;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unsupported> {
        self.element(value)
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close()
    }
}

impl SerializeTuple for Members<'_, '_> {
    type Ok = ();
    type Error = Unsupported;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unsupported> {
        self.element(value)
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close()
    }
}

impl SerializeMap for Members<'_, '_> {
    type Ok = ();
    type Error = Unsupported;

    /// The maps in events have text as keys.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unsupported> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unsupported> {
        self.json.0.push(b':');
        value.serialize(&mut *self.json)
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close()
    }
}

impl SerializeStruct for Members<'_, '_> {
    type Ok = ();
    type Error = Unsupported;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unsupported> {
        self.named(name, value)
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close()
    }
}

impl SerializeStructVariant for Members<'_, '_> {
    type Ok = ();
    type Error = Unsupported;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unsupported> {
        self.named(name, value)
    }

    fn end(self) -> Result<(), Unsupported> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn written(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        json_line(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn equals_serde_json() {
        let value = json!({
            "a": [1, -2, null, true, {"b": "c\"\\\n\u{1}é→"}], "": {}, "d": [], "n": u64::MAX,
        });
        assert_eq!(written(&value), format!("{value}\n"));
    }

    #[test]
    fn control_characters_are_escaped() {
        let text = "a\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{e0041}z";
        let line = written(&text);
        assert!(!line.trim_end().chars().any(is_harmful), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }

    proptest! {
        #[test]
        fn any_text_is_restored(text in any::<String>(), number in any::<i64>()) {
            let value = json!({ "text": text, "number": number });
            let line = written(&value);
            prop_assert_eq!(line.lines().count(), 1);
            prop_assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        }
    }
}
