//! Layouts of real kernels, resolved from the BTF that `cargo xtask btf-fixtures` keeps of them; beside
//! each fixture is its layout as a readable table.

use std::{env, fmt::Write, fs, path::PathBuf};

use keepalive_ebpf::Comparison;

use super::*;

/// If this variable is set, the tables are written instead of compared.
const WRITE: &str = "KEEPALIVE_WRITE_LAYOUTS";

struct Fixture {
    release: String,
    btf: Vec<u8>,
    table: PathBuf,
}

impl Fixture {
    fn all() -> Vec<Self> {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/btf");
        let files = fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().path());
        let fixtures = files.filter(|path| path.extension().is_some_and(|it| it == "btf"));
        let mut fixtures: Vec<Self> = fixtures
            .map(|path| Self {
                release: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                btf: fs::read(&path).unwrap(),
                table: path.with_extension("layout"),
            })
            .collect();
        fixtures.sort_by(|a, b| a.release.cmp(&b.release));
        fixtures
    }

    fn named(start: &str) -> Self {
        let mut all = Self::all().into_iter();
        all.find(|fixture| fixture.release.starts_with(start))
            .unwrap()
    }

    fn resolve(&self) -> Result<Resolved> {
        resolve(&Btf::parse(&self.btf)?, &self.release)
    }

    /// Renames every member and enumerator of that name.
    fn without(&self, name: &str) -> Self {
        let (old, new) = (
            format!("\0{name}\0"),
            format!("\0{}\0", "?".repeat(name.len())),
        );
        let at = self
            .btf
            .windows(old.len())
            .position(|it| it == old.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{}: no {name}", self.release));
        let mut btf = self.btf.clone();
        btf[at..at + new.len()].copy_from_slice(new.as_bytes());
        Self {
            release: self.release.clone(),
            btf,
            table: PathBuf::new(),
        }
    }
}

/// The last of the names in `struct.member.member`.
fn last_name(member: &str) -> &str {
    member.rsplit('.').next().unwrap()
}

fn table(resolved: &Resolved) -> String {
    let mut text = String::new();
    for row in &resolved.rows {
        let Row {
            field, size, word, ..
        } = row;
        let name = field.name;
        let _ = match (row.member, *word) {
            (Some(member), word) => writeln!(text, "{name}: {member} {word}, {size} bytes"),
            (None, ABSENT) => writeln!(text, "{name}: absent"),
            (None, word) => writeln!(text, "{name}: {word}"),
        };
    }
    text
}

#[test]
fn each_kernel_has_the_layout_beside_its_types() {
    let fixtures = Fixture::all();
    assert!(fixtures.len() >= 7, "{}", fixtures.len());
    for fixture in fixtures {
        let resolved = fixture.resolve().unwrap();
        assert_eq!(
            resolved.layout.as_bytes(),
            resolved.words().as_bytes(),
            "recordings have what programs read"
        );
        let table = table(&resolved);
        if env::var_os(WRITE).is_some() {
            fs::write(&fixture.table, &table).unwrap();
        }
        let kept = fs::read_to_string(&fixture.table).unwrap_or_default();
        assert_eq!(table, kept, "{}; {WRITE}=1 writes it", fixture.release);
    }
}

#[test]
fn kernels_differ_where_they_are_known_to() {
    let of = |start| Fixture::named(start).resolve().unwrap();
    let timers = |start| {
        let resolved = of(start);
        [resolved.keepalive_timer(), resolved.write_timer()]
    };
    let (own, shared) = ("inet_connection_sock.icsk_keepalive_timer", "sock.sk_timer");
    let write = "inet_connection_sock.icsk_retransmit_timer";
    assert_eq!(timers("5.10"), [shared, write]);
    assert_eq!(timers("6.1."), [own, write]);
    assert_eq!(timers("6.18"), [shared, write]);
    assert_eq!(timers("7.2"), [own, "sock.tcp_retransmit_timer"]);
    let rto_max = "inet_connection_sock.icsk_rto_max";
    assert_eq!(of("5.10").absent(), [rto_max, "tcp_sock.is_mptcp"]);
    assert_eq!(of("6.12").absent(), [rto_max]);
    assert_eq!(of("7.2").absent(), Vec::<&str>::new());
    assert_eq!(of("6.1.").layout.cgroup_tag_mask, 0);
    let withheld = Fixture::all().into_iter().filter(|fixture| {
        let resolved = fixture.resolve().unwrap();
        resolved.withholds_from_init
    });
    let withheld: Vec<String> = withheld.map(|fixture| fixture.release).collect();
    assert_eq!(withheld, ["6.18.44-vendor"]);
}

/// Any field may be renamed: for a required one without an alternative the error names the field and the
/// kernel; an optional one is absent; all others are unchanged.
#[test]
fn a_missing_field_is_reported_by_its_name() {
    for fixture in Fixture::all() {
        let whole = fixture.resolve().unwrap();
        for member in whole.rows.iter().filter_map(|row| row.member) {
            let name = last_name(member);
            let resolved = match fixture.without(name).resolve() {
                Ok(resolved) => resolved,
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(name), "{member}: {error}");
                    assert!(error.contains(&fixture.release), "{member}: {error}");
                    continue;
                }
            };
            for (row, before) in resolved.rows.iter().zip(&whole.rows) {
                let is_gone = before
                    .member
                    .is_some_and(|it| it.split('.').any(|it| it == name));
                assert_eq!(row.member != before.member, is_gone, "{member}");
                let is_required = row.field.need == FieldNeed::Required;
                assert!(
                    !is_gone || row.member.is_some() || !is_required,
                    "{}: {member} is not reported as missing",
                    fixture.release
                );
            }
        }
    }
}

/// Up to 5.14 the word is a tagged pointer.
#[test]
fn a_tagged_cgroup_pointer_is_recognized() {
    let mut fixture = Fixture::named("5.10");
    let name = b"\0cgroup\0";
    let mut names = fixture.btf.windows(name.len());
    let at = names.position(|it| it == name).unwrap();
    fixture.btf[at..at + name.len()].copy_from_slice(b"\0val\0\0\0\0");
    let layout = fixture.resolve().unwrap().layout;
    assert_eq!(layout.cgroup_tag_mask, 3);
    assert_ne!(layout.sk_cgrp_data, ABSENT);
}

#[test]
fn a_field_of_another_size_is_refused_by_its_name() {
    let mut fixture = Fixture::named("6.1.");
    // Every `unsigned int` of four bytes becomes one of eight.
    let resolved = fixture.resolve().unwrap();
    let flags = resolved
        .rows
        .iter()
        .find(|row| row.field.name == "task_flags");
    assert_eq!(flags.unwrap().size, 4);
    let int = 1_u32 << 24;
    let at = (24..fixture.btf.len() - 12)
        .step_by(4)
        .find(|&at| {
            fixture.btf[at + 4..at + 8] == int.to_le_bytes()
                && fixture.btf[at + 8..at + 12] == 4_u32.to_le_bytes()
        })
        .unwrap();
    fixture.btf[at + 8] = 8;
    let error = fixture.resolve().err().unwrap().to_string();
    assert!(error.contains("8 bytes"), "{error}");
    assert!(error.contains(&fixture.release), "{error}");
}

/// The page lists exactly the fields that are not compared, or are compared only with 0, each with the
/// reason of the table; README names those that are not compared.
#[test]
fn the_documents_list_what_is_not_compared() {
    let page = include_str!("../../../../../docs/SELF-TEST.md");
    let readme = include_str!("../../../../../README.md");
    let (_, readme) = readme.split_once("Not\ncompared").unwrap();
    let (readme, _) = readme.split_once("\n\n").unwrap();
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for field in FIELDS {
        let name = format!("`{}`", field.name);
        let row = rows.iter().find(|row| row.contains(&name));
        match field.comparison {
            Comparison::Compared(_) => {
                assert_eq!(row, None, "{name}");
                assert!(!readme.contains(&name), "{name}");
            }
            Comparison::AsZero(why) | Comparison::NotCompared(why) => {
                let row = row.unwrap_or_else(|| panic!("{name} is not listed"));
                assert!(row.ends_with(&format!("| {why} |")), "{name}: {row}");
                let is_compared = matches!(field.comparison, Comparison::AsZero(_));
                assert_eq!(readme.contains(&name), !is_compared, "{name}");
            }
        }
    }
    let named = rows
        .iter()
        .flat_map(|row| row.split('`').skip(1).step_by(2));
    let is_row = |name: &str| FIELDS.iter().any(|field| field.name == name);
    for name in named {
        assert!(is_row(name), "{name}");
    }
}
