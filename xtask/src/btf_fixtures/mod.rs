//! `cargo xtask btf-fixtures`: extracts from each kernel of the matrix the types that the layout is resolved
//! from, as BTF of some kilobytes, so that the layout is tested without root and without a VM. The command
//! needs neither: the BTF is a section of the kernel in its compressed image.
//!
//! The same kernel always gives the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use keepalive_ebpf::{FIELDS, INIT_OWNED, NESTED, WordKind};

use crate::{
    kernels::{Kernel, MATRIX},
    packages::{self, Tool},
    paths, run,
};

#[derive(Args)]
pub struct Arguments {
    /// Raw BTF to make one fixture from, instead of the kernels of the matrix
    #[arg(long, requires = "release")]
    btf: Option<PathBuf>,
    /// The release of the kernel with that BTF
    #[arg(long, requires = "btf")]
    release: Option<String>,
}

const DECOMPRESSORS: &[Tool] = &[
    Tool {
        path: "lz4",
        package: "lz4",
    },
    Tool {
        path: "xz",
        package: "xz-utils",
    },
    Tool {
        path: "zstd",
        package: "zstd",
    },
];

/// Writes the fixtures, and keeps those of other releases: a layout once resolved must stay resolvable.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let (Some(btf), Some(release)) = (&arguments.btf, &arguments.release) {
        let bytes = fs::read(btf).with_context(|| format!("cannot read {}", btf.display()))?;
        write(release, &bytes)?;
        return Ok(ExitCode::SUCCESS);
    }
    packages::ensure(DECOMPRESSORS)?;
    for kernel in MATRIX {
        of_kernel(kernel).with_context(|| format!("the fixture of {}", kernel.label))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn of_kernel(kernel: &Kernel) -> Result<()> {
    let fetched = kernel.fetch()?;
    let vmlinux = vmlinux(&fetched.image)?;
    write(&fetched.release, section(&vmlinux, b".BTF")?)
}

fn write(release: &str, btf: &[u8]) -> Result<()> {
    let directory = paths::root().join("keepalive-user/tests/btf");
    fs::create_dir_all(&directory).context("cannot make the directory of fixtures")?;
    let path = directory.join(format!("{release}.btf"));
    let trimmed = trimmed(btf)?;
    fs::write(&path, &trimmed).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("[btf] {} ({} bytes)", path.display(), trimmed.len());
    Ok(())
}

/// The kernel in a bzImage (Documentation/arch/x86/boot.rst): compressed, after the sectors of the real-mode
/// code, followed by its length.
fn vmlinux(image: &Path) -> Result<Vec<u8>> {
    const SECTOR: usize = 512;
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    ensure!(bytes.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let setup = match bytes[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let [at, length] = [0x248, 0x24c].map(|at| word(&bytes, at));
    let start = (setup + 1) * SECTOR + at? as usize;
    let end = start + (length? as usize).saturating_sub(4);
    let payload = bytes.get(start..end).context("the image is truncated")?;
    let program = match payload.first_chunk() {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => "zstd",
        Some([0x02, 0x21, 0x4c, 0x18]) => "lz4",
        Some([0xfd, b'7', b'z', b'X']) => "xz",
        other => bail!("unknown compression magic {other:x?}"),
    };
    let file = paths::target("btf-payload");
    fs::write(&file, payload).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(program);
    command.arg("-dc").arg(&file);
    let output = run::step(&format!("decompress {}", image.display()), &mut command);
    fs::remove_file(&file).context("cannot remove the compressed kernel")?;
    Ok(output?.stdout)
}

/// A section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Result<&'a [u8]> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit ELF file");
    let long = |at: usize| -> Result<usize> {
        let bytes = elf.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
        let value = u64::from_le_bytes(*bytes.context("the ELF file is truncated")?);
        Ok(usize::try_from(value)?)
    };
    let short = |at| word(elf, at).map(|word| word as usize & 0xffff);
    let headers = long(0x28)?;
    let (size, count, names) = (short(0x3a)?, short(0x3c)?, short(0x3e)?);
    let header = |index: usize| headers + index * size;
    let names = long(header(names) + 0x18)?;
    for index in 0..count {
        let at = header(index);
        if string(elf, names + word(elf, at)? as usize) == name {
            let (start, length) = (long(at + 0x18)?, long(at + 0x20)?);
            return elf
                .get(start..start + length)
                .context("the section is truncated");
        }
    }
    bail!("no section {}", String::from_utf8_lossy(name))
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    found
        .map(|bytes| u32::from_le_bytes(*bytes))
        .with_context(|| format!("truncated at byte {at}"))
}

fn string(bytes: &[u8], at: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.split(|&byte| byte == 0).next().unwrap_or_default()
}

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
fn trimmed(btf: &[u8]) -> Result<Vec<u8>> {
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

#[cfg(test)]
mod tests;
