//! The types that are kept of a kernel's BTF.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use keepalive_ebpf::{FIELDS, INIT_OWNED, NESTED, WordKind};

use super::{string, word};

/// The kinds of `include/uapi/linux/btf.h`.
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// One type: its three words, and the words that follow.
struct Type {
    name: u32,
    info: u32,
    size_or_type: u32,
    rest: Vec<u32>,
}

impl Type {
    fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// Words of one member or enumerator.
    fn stride(&self) -> usize {
        match self.kind() {
            kind::STRUCT | kind::UNION => 3,
            kind::ENUM => 2,
            _ => 0,
        }
    }

    /// Members or enumerators: name, and the words that follow it.
    fn items(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let items = self.rest.chunks_exact(self.stride().max(1));
        items.filter_map(|item| item.split_first().map(|(&name, rest)| (name, rest)))
    }
}

/// BTF, and the kept part of it: types by id, with the indices of their members or enumerators.
struct Trimming<'a> {
    /// Element 0 is `void`.
    types: Vec<Type>,
    strings: &'a [u8],
    kept: BTreeMap<usize, BTreeSet<usize>>,
}

/// The types of a kernel that its layout is resolved from.
pub fn trimmed(btf: &[u8]) -> Result<Vec<u8>> {
    let mut trimming = Trimming::parse(btf)?;
    let rows = FIELDS.iter().flat_map(|field| {
        let names = field.alternatives.iter();
        names.map(|&name| (name, field.place == WordKind::Flag))
    });
    let others = NESTED.iter().chain([&INIT_OWNED]);
    for (name, is_enumerator) in rows.chain(others.map(|&name| (name, false))) {
        if is_enumerator {
            trimming.keep_enumerator(name.as_bytes());
        } else {
            trimming.keep_path(name)?;
        }
    }
    trimming.write()
}

impl<'a> Trimming<'a> {
    fn parse(btf: &'a [u8]) -> Result<Self> {
        ensure!(word(btf, 0)? & 0xffff == 0xeb9f, "not BTF");
        let at = |at| word(btf, at).map(|word| word as usize);
        let (header, first, length) = (at(4)?, at(8)?, at(12)?);
        let strings = btf.get(header + at(16)?..).context("no strings")?;
        let mut at = header + first;
        let end = at + length;
        let mut types = vec![Type {
            name: 0,
            info: 0,
            size_or_type: 0,
            rest: Vec::new(),
        }];
        while at < end {
            let [name, info, size_or_type] =
                [word(btf, at)?, word(btf, at + 4)?, word(btf, at + 8)?];
            let vlen = info as usize & 0xffff;
            let words = match info >> 24 & 0x1f {
                kind::INT | kind::VAR | kind::DECL_TAG => 1,
                kind::ARRAY => 3,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 3 * vlen,
                kind::ENUM | kind::FUNC_PROTO => 2 * vlen,
                kind::PTR
                | kind::FWD
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::FLOAT
                | kind::TYPE_TAG => 0,
                other => bail!("BTF kind {other} is newer than this program"),
            };
            at += 12;
            let rest: Result<Vec<u32>> =
                (0..words).map(|index| word(btf, at + 4 * index)).collect();
            types.push(Type {
                name,
                info,
                size_or_type,
                rest: rest?,
            });
            at += 4 * words;
        }
        Ok(Self {
            types,
            strings,
            kept: BTreeMap::new(),
        })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        string(self.strings, offset as usize)
    }

    /// Keeps `struct.member.member`, if the kernel has it: the members on the path, and the type at its end.
    fn keep_path(&mut self, path: &str) -> Result<()> {
        let mut names = path.split('.');
        let structure = names.next().unwrap_or_default().as_bytes();
        let is_it = |it: &Type| it.kind() == kind::STRUCT && self.name(it.name) == structure;
        let Some(mut at) = self.types.iter().position(is_it) else {
            return Ok(());
        };
        let mut steps = Vec::new();
        for name in names {
            let Some(mut further) = self.member(at, name.as_bytes()) else {
                return Ok(());
            };
            steps.append(&mut further);
            at = match steps.last() {
                Some(last) => last.to,
                None => return Ok(()),
            };
        }
        for step in steps {
            self.keep(step.compound)?;
            self.keep(step.to)?;
            let members = self.kept.entry(step.compound).or_default();
            members.insert(step.index);
        }
        Ok(())
    }

    /// The path to a member, through nameless ones.
    fn member(&self, id: usize, name: &[u8]) -> Option<Vec<Step>> {
        let compound = self.behind(id);
        let it = self.types.get(compound)?;
        if !matches!(it.kind(), kind::STRUCT | kind::UNION) {
            return None;
        }
        for (index, (member, rest)) in it.items().enumerate() {
            let step = Step {
                compound,
                index,
                to: *rest.first()? as usize,
            };
            match self.name(member) {
                b"" => {
                    if let Some(further) = self.member(step.to, name) {
                        return Some([vec![step], further].concat());
                    }
                }
                found if found == name => return Some(vec![step]),
                _ => {}
            }
        }
        None
    }

    /// Keeps the first enum that has this enumerator, without the other ones.
    fn keep_enumerator(&mut self, name: &[u8]) {
        let found = self.types.iter().enumerate().find_map(|(id, it)| {
            let mut items = it.items().filter(|_| it.kind() == kind::ENUM);
            Some((id, items.position(|(item, _)| self.name(item) == name)?))
        });
        if let Some((id, index)) = found {
            self.kept.entry(id).or_default().insert(index);
        }
    }

    /// Keeps a type and those that its size depends on; a compound type without members.
    fn keep(&mut self, id: usize) -> Result<()> {
        let it = self.types.get(id).context("a type id is out of range")?;
        let further: &[u32] = match it.kind() {
            kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                &[it.size_or_type]
            }
            // The element, and the type of the index.
            kind::ARRAY => it.rest.get(..2).unwrap_or_default(),
            kind::INT | kind::PTR | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 => &[],
            other => bail!("a member of kind {other}"),
        };
        let further = further.to_vec();
        self.kept.entry(id).or_default();
        for id in further {
            self.keep(id as usize)?;
        }
        Ok(())
    }

    /// The type behind typedefs and qualifiers.
    fn behind(&self, mut id: usize) -> usize {
        while let Some(it) = self.types.get(id)
            && matches!(
                it.kind(),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG
            )
        {
            id = it.size_or_type as usize;
        }
        id
    }

    /// The kept types in their order, and the strings they need.
    fn write(&self) -> Result<Vec<u8>> {
        let ids: BTreeMap<usize, u32> = self.kept.keys().copied().zip(1..).collect();
        let new_id = |id: u32| ids.get(&(id as usize)).copied();
        let mut strings = Strings::default();
        let mut words = Vec::new();
        for (&id, items) in &self.kept {
            let it = self.types.get(id).context("a type id is out of range")?;
            let mut name = |offset| strings.add(self.name(offset));
            let (mut info, mut size_or_type, mut rest) = (it.info, it.size_or_type, Vec::new());
            let own_name = name(it.name);
            match it.kind() {
                // The target of a pointer is not needed: void.
                kind::PTR => size_or_type = 0,
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    size_or_type = new_id(size_or_type).context("a type was not kept")?;
                }
                kind::ARRAY => {
                    rest = it.rest.clone();
                    for id in &mut rest[..2] {
                        *id = new_id(*id).context("the type of an array was not kept")?;
                    }
                }
                kind::STRUCT | kind::UNION => {
                    for (_, (member, place)) in kept_of(it, items) {
                        let id = new_id(place[0]).context("the type of a member was not kept")?;
                        rest.extend([name(member), id, place[1]]);
                    }
                    info = info & !0xffff | items.len() as u32;
                }
                kind::ENUM | kind::ENUM64 => {
                    for (_, (enumerator, value)) in kept_of(it, items) {
                        rest.push(name(enumerator));
                        rest.extend(value);
                    }
                    info = info & !0xffff | items.len() as u32;
                }
                _ => rest = it.rest.clone(),
            }
            words.extend([own_name, info, size_or_type]);
            words.append(&mut rest);
        }
        let types = 4 * words.len() as u32;
        let header = [24, 0, types, types, strings.bytes.len() as u32];
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(
            header
                .iter()
                .chain(&words)
                .flat_map(|word| word.to_le_bytes()),
        );
        bytes.append(&mut strings.bytes);
        Ok(bytes)
    }
}

/// One member on the path to another.
#[derive(Clone, Copy)]
struct Step {
    /// The struct or union.
    compound: usize,
    index: usize,
    /// The member's type.
    to: usize,
}

/// The members or enumerators that are kept.
fn kept_of<'a>(
    it: &'a Type,
    kept: &BTreeSet<usize>,
) -> impl Iterator<Item = (usize, (u32, &'a [u32]))> {
    let items = it.items().enumerate();
    items.filter(|(index, _)| kept.contains(index))
}

/// A section of strings, each once.
struct Strings {
    bytes: Vec<u8>,
    offsets: BTreeMap<Vec<u8>, u32>,
}

impl Default for Strings {
    fn default() -> Self {
        Self {
            bytes: vec![0],
            offsets: BTreeMap::from([(Vec::new(), 0)]),
        }
    }
}

impl Strings {
    fn add(&mut self, name: &[u8]) -> u32 {
        let end = self.bytes.len() as u32;
        *self.offsets.entry(name.to_vec()).or_insert_with(|| {
            self.bytes.extend(name);
            self.bytes.push(0);
            end
        })
    }
}
