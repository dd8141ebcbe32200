//! Hand-written BTF with every kind of step in a field path, and bytes that are not BTF.

use proptest::prelude::*;

use super::*;

/// Writes BTF: types in order, ids from 1.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    fn words(&mut self, words: &[u32]) -> &mut Self {
        self.types
            .extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self
    }

    fn add(&mut self, name: &str, kind: u8, vlen: u32, size_or_type: u32) -> &mut Self {
        let name = self.name(name);
        self.words(&[name, u32::from(kind) << 24 | vlen, size_or_type])
    }

    fn int(&mut self, name: &str, size: u32) -> &mut Self {
        self.add(name, KIND_INT, 0, size).words(&[size * 8])
    }

    /// Members: name, type, bit offset, bit size (non-zero makes all offsets carry sizes).
    fn compound(
        &mut self,
        kind: u8,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32, u32)],
    ) -> &mut Self {
        let flag = u32::from(members.iter().any(|member| member.3 != 0));
        let name = self.name(name);
        self.words(&[
            name,
            flag << 31 | u32::from(kind) << 24 | members.len() as u32,
            size,
        ]);
        for &(member, id, bits, width) in members {
            let member = self.name(member);
            self.words(&[member, id, bits | if flag == 1 { width << 24 } else { 0 }]);
        }
        self
    }

    fn build(&self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(
            [24, 0, types, types, strings]
                .iter()
                .flat_map(|word: &u32| word.to_le_bytes()),
        );
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// `struct sock { u32 a; union { struct named { u16 low; u16 high; }; u32 both; }; u32 bits:3; volatile my_u64 list[2]; }`
fn sample() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.int("u32", 4).int("u16", 2).int("u64", 8); // 1, 2, 3
    builder.compound(
        KIND_STRUCT,
        "named",
        4,
        &[("low", 2, 0, 0), ("high", 2, 16, 0)],
    ); // 4
    builder.compound(KIND_UNION, "", 4, &[("", 4, 0, 0), ("both", 1, 0, 0)]); // 5
    builder
        .add("my_u64", KIND_TYPEDEF, 0, 3)
        .add("", KIND_VOLATILE, 0, 6); // 6, 7
    builder.add("", KIND_ARRAY, 0, 0).words(&[7, 1, 2]); // 8
    builder.compound(
        KIND_STRUCT,
        "sock",
        32,
        &[
            ("a", 1, 0, 0),
            ("", 5, 32, 0),
            ("bits", 1, 64, 3),
            ("list", 8, 128, 0),
        ],
    ); // 9
    builder.compound(KIND_STRUCT, "inet_sock", 32, &[("sk", 9, 0, 0)]); // 10
    builder.add("sock_flags", KIND_ENUM, 2, 4); // 11
    let names = [builder.name("SOCK_DEAD"), builder.name("SOCK_KEEPOPEN")];
    builder.words(&[names[0], 0, names[1], 3]);
    builder.build()
}

#[test]
fn finds_fields_through_every_kind_of_step() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let field = |path| btf.field("sock", path);
    assert_eq!(field("a"), Some(Field { offset: 0, size: 4 }));
    assert_eq!(
        field("high"),
        Some(Field { offset: 6, size: 2 }),
        "nameless union, then nameless member of a named struct"
    );
    assert_eq!(field("both"), Some(Field { offset: 4, size: 4 }));
    assert_eq!(
        field("list"),
        Some(Field {
            offset: 16,
            size: 16
        }),
        "array behind volatile and typedef"
    );
    assert_eq!(
        btf.field("inet_sock", "sk.high"),
        Some(Field { offset: 6, size: 2 })
    );
}

#[test]
fn a_missing_member_is_none() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(
        btf.field("sock", "bits"),
        None,
        "a bit-field shares its bytes"
    );
    assert_eq!(btf.field("sock", "a.b"), None, "an integer has no members");
    assert_eq!(btf.field("sock", ""), None);
    assert_eq!(btf.field("socket", "a"), None);
}

#[test]
fn finds_enumerators() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.enumerator("SOCK_KEEPOPEN"), Some(3));
    assert_eq!(btf.enumerator("SOCK_DEAD"), Some(0));
    assert_eq!(btf.enumerator("SOCK_DONE"), None);
}

#[test]
fn bytes_that_are_not_btf_are_refused() {
    for bytes in [&b""[..], b"\x7fELF", b"not BTF at all, by any means"] {
        assert!(Btf::parse(bytes).is_err());
    }
    let mut newer = Builder::new();
    newer.add("future", 31, 0, 0);
    let error = Btf::parse(&newer.build()).err().unwrap().to_string();
    assert!(error.contains("kind 31"), "{error}");
}

/// A type that contains itself must not be followed for ever.
#[test]
fn a_circular_type_is_not_followed() {
    let mut builder = Builder::new();
    builder.compound(KIND_STRUCT, "loop", 8, &[("", 1, 0, 0), ("", 1, 0, 0)]); // 1 contains 1, twice
    builder.add("turn", KIND_TYPEDEF, 0, 2); // 2 is 2
    builder.compound(KIND_STRUCT, "holder", 8, &[("turn", 2, 0, 0)]);
    let bytes = builder.build();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.field("loop", "x"), None);
    assert_eq!(btf.field("holder", "turn"), None);
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(btf) = Btf::parse(&bytes) {
            btf.field("sock", "a");
        }
    }

    #[test]
    fn any_damage_gives_an_answer(at in 0usize..1000, byte in any::<u8>(), length in 0usize..1000) {
        let mut bytes = sample();
        let position = at % bytes.len();
        bytes[position] = byte;
        bytes.truncate(length.max(24));
        if let Ok(btf) = Btf::parse(&bytes) {
            for path in ["a", "high", "both", "list", "bits"] {
                btf.field("sock", path);
            }
            btf.enumerator("SOCK_KEEPOPEN");
        }
    }
}
