//! # The kernel's layout
//!
//! Where the running kernel keeps every field the programs read, found in its BTF by name, with
//! alternatives where kernels differ: the rows of [`FIELDS`]. Versions are never compared: backports
//! make them meaningless (`icsk_keepalive_timer` is in 6.1.192 and 7.2, but not in 6.18).
//!
//! A resolved layout is only a claim; `self_test` checks it on a socket of our own.

use anyhow::{Context, Result, ensure};
use keepalive_ebpf::{
    ABSENT, ANY, FIELDS, Field, FieldNeed, INIT_OWNED, KernelLayout, NESTED, SOCK_COPY_MAX,
    WordKind,
};
use zerocopy::{FromBytes, IntoBytes};

use super::btf::{self, Btf};

/// A layout and how it was found.
pub struct Resolved {
    pub layout: KernelLayout,
    /// Every row of the table, in its order.
    pub rows: Vec<Row>,
    /// Whether this kernel withholds BPF programs from process 1; see [`withholds_from_init`].
    pub withholds_from_init: bool,
}

/// The result for one row.
#[derive(Clone, Copy)]
pub struct Row {
    pub field: &'static Field,
    /// The alternative that this kernel has; `None` if it has none, or the row is a length.
    pub member: Option<&'static str>,
    /// Size of that member.
    pub size: u32,
    /// The value that the programs use: an offset, a length or a mask.
    pub word: u32,
}

impl Resolved {
    /// The layout as a recording keeps it.
    pub fn words(&self) -> Vec<u32> {
        self.rows.iter().map(|row| row.word).collect()
    }

    /// The member that is the keepalive timer here: `inet_connection_sock.icsk_keepalive_timer`.
    pub fn keepalive_timer(&self) -> &'static str {
        self.member_of("keepalive_timer")
    }

    /// The member that is the write timer here.
    pub fn write_timer(&self) -> &'static str {
        self.member_of("write_timer")
    }

    /// Optional fields that this kernel does not have: their values are unknown or constant.
    pub fn absent(&self) -> Vec<&'static str> {
        let absent = self
            .rows
            .iter()
            .filter(|row| row.word == ABSENT && matches!(row.field.need, FieldNeed::Optional(_)));
        absent
            .filter_map(|row| row.field.alternatives.last().copied())
            .collect()
    }

    fn member_of(&self, name: &str) -> &'static str {
        let row = self.rows.iter().find(|row| row.field.name == name);
        row.and_then(|row| row.member).unwrap_or_default()
    }
}

/// Resolves all fields. `kernel` is the kernel's name in error messages.
///
/// # Errors
/// Names the first required field that the BTF does not have in the expected size.
pub fn resolve(btf: &Btf<'_>, kernel: &str) -> Result<Resolved> {
    let resolver = FieldResolver { btf, kernel };
    resolver.check_nesting()?;
    let mut rows = FIELDS
        .iter()
        .map(|field| resolver.row(field))
        .collect::<Result<Vec<Row>>>()?;
    let length = |is_in: fn(&WordKind) -> bool| {
        let found = rows.iter().filter(|row| is_in(&row.field.place));
        let ends = found.filter_map(|row| row.member.map(|_| row.word.saturating_add(row.size)));
        ends.max().unwrap_or_default().next_multiple_of(8)
    };
    let socket = length(|place| matches!(place, WordKind::Socket | WordKind::Common));
    let mini = length(|place| matches!(place, WordKind::Mini | WordKind::Common));
    ensure!(
        socket as usize <= SOCK_COPY_MAX,
        "struct tcp_sock of {kernel} is too large: fields up to byte {socket}, at most \
         {SOCK_COPY_MAX} are copied"
    );
    ensure!(
        mini <= socket,
        "the small sockets of {kernel} are larger than struct tcp_sock"
    );
    for row in &mut rows {
        match row.field.place {
            WordKind::SocketLength => row.word = socket,
            WordKind::MiniLength => row.word = mini,
            WordKind::Socket
            | WordKind::Common
            | WordKind::Mini
            | WordKind::Other
            | WordKind::Flag
            | WordKind::Tag(_) => {}
        }
    }
    let words: Vec<u32> = rows.iter().map(|row| row.word).collect();
    Ok(Resolved {
        layout: KernelLayout::read_from_bytes(words.as_bytes())
            .map_err(|error| anyhow::anyhow!("the layout: {error}"))?,
        rows,
        withholds_from_init: withholds_from_init(btf),
    })
}

/// Some vendors' kernels run a tracing program that process 1 did not load only while another process is
/// the current one (`bpf_prog_aux.init_owned`, checked in `bpf_trace_run*`). A timer's softirq that
/// interrupts process 1 then runs no program, whatever it is attached to, and no miss is counted.
/// Measured on such a 6.18.44: 796 of 40,000 timer runs were not seen, and for exactly these ftrace shows
/// a thread of process 1 as the current task.
fn withholds_from_init(btf: &Btf<'_>) -> bool {
    member(btf, INIT_OWNED).is_some()
}

/// A member by `struct.path`.
fn member(btf: &Btf<'_>, name: &str) -> Option<btf::Field> {
    let (structure, path) = name.split_once('.')?;
    btf.field(structure, path)
}

struct FieldResolver<'a> {
    btf: &'a Btf<'a>,
    kernel: &'a str,
}

impl FieldResolver<'_> {
    /// The programs use offsets of the outer and the inner struct on the same pointer.
    fn check_nesting(&self) -> Result<()> {
        for name in NESTED {
            let kernel = self.kernel;
            let inner = member(self.btf, name)
                .with_context(|| format!("{kernel} has no {name} in its BTF"))?;
            ensure!(
                inner.offset == 0,
                "{name} is at {} in {kernel}, not at 0",
                inner.offset
            );
        }
        Ok(())
    }

    fn row(&self, field: &'static Field) -> Result<Row> {
        let row = |member, size, word| Row {
            field,
            member,
            size,
            word,
        };
        Ok(match field.place {
            WordKind::SocketLength | WordKind::MiniLength => row(None, 0, 0),
            WordKind::Flag => {
                let (name, bit) = self.enumerator(field)?;
                row(Some(name), 0, bit)
            }
            WordKind::Tag(mask) => match self.first(field)? {
                Some((name, found)) => row(Some(name), found.size, mask),
                None => row(None, 0, 0),
            },
            WordKind::Socket | WordKind::Common | WordKind::Mini | WordKind::Other => {
                match self.first(field)? {
                    Some((name, found)) => row(Some(name), found.size, found.offset),
                    None => row(None, 0, ABSENT),
                }
            }
        })
    }

    /// The first alternative that this kernel has, in the size that the programs read. An optional
    /// field of another size counts as absent.
    fn first(&self, field: &'static Field) -> Result<Option<(&'static str, btf::Field)>> {
        let kernel = self.kernel;
        let alternatives = field.alternatives.iter();
        let found = alternatives
            .filter_map(|&name| Some((name, member(self.btf, name)?)))
            .next();
        let is_required = field.need == FieldNeed::Required;
        match found {
            Some((_, found)) if field.size == ANY || found.size == field.size => {}
            Some((name, found)) => ensure!(
                !is_required,
                "{name} has {} bytes in the BTF of {kernel}, expected {}",
                found.size,
                field.size
            ),
            None => ensure!(
                !is_required,
                "{kernel} has no {} in its BTF",
                field.alternatives.join(" or ")
            ),
        }
        Ok(found.filter(|(_, found)| field.size == ANY || found.size == field.size))
    }

    fn enumerator(&self, field: &'static Field) -> Result<(&'static str, u32)> {
        let kernel = self.kernel;
        let found = field
            .alternatives
            .iter()
            .find_map(|&name| Some((name, self.btf.enumerator(name)?)));
        let (name, bit) = found.with_context(|| {
            let names = field.alternatives.join(" or ");
            format!("{kernel} has no enumerator {names} in its BTF")
        })?;
        let mask = 1u32
            .checked_shl(bit)
            .with_context(|| format!("{name} is {bit} in {kernel}, beyond the flags word"))?;
        Ok((name, mask))
    }
}

#[cfg(test)]
mod tests;
