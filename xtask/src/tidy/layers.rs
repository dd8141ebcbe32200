//! The layers of `keepalive-user`: which layer may import which, checked on the imports in the code.
//!
//! A *room* is a file or folder directly in a layer (`core/tracker`, `machine/files`). Imports go
//! downwards only, rooms do not import each other in a circle, and this file lists the names that a layer
//! must not use. Code that is only compiled for tests may import anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use syn::{
    Attribute, File, ItemImpl, ItemMod, ItemUse, Macro, Type, UseTree,
    buffer::{Cursor, TokenBuffer},
    visit::{self, Visit},
};

/// A layer, and the names that it may use.
struct Layer {
    name: &'static str,
    /// Layers it may import, besides itself.
    below: &'static [&'static str],
    /// Crates, and modules of `std`, that it must not name.
    forbidden: &'static [&'static str],
}

/// Modules and functions that use the operating system.
const SYSTEM: &[&str] = &[
    "TimeZone::system",
    "aya",
    "aya_log",
    "aya_obj",
    "caps",
    "jiff::tz::TimeZone::system",
    "landlock",
    "libc",
    "rustix",
    "seccompiler",
    "signal_hook",
    "std::env",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
];

const LAYERS: &[Layer] = &[
    Layer {
        name: "core",
        below: &[],
        forbidden: SYSTEM,
    },
    Layer {
        name: "machine",
        below: &["core"],
        forbidden: &["clap"],
    },
    Layer {
        name: "output",
        below: &["core"],
        forbidden: SYSTEM,
    },
    Layer {
        name: "cli",
        below: &["core", "machine", "output"],
        forbidden: &["aya", "libc", "rustix", "std::fs", "std::os", "tokio"],
    },
    Layer {
        name: "commands",
        below: &["core", "machine", "output", "cli"],
        forbidden: &["aya", "libc", "std::fs", "std::os"],
    },
];

/// Most entries directly in the source folder.
const ENTRIES: usize = 10;

/// All violations of the layers in this source folder.
pub fn breaches(source: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let entries = fs::read_dir(source)?.count();
    if entries > ENTRIES {
        breaches.push(format!(
            "{entries} entries in {}, at most {ENTRIES}: they belong into a layer",
            source.display()
        ));
    }
    let mut arrows = Arrows::new();
    for layer in LAYERS {
        for path in super::sources(&source.join(layer.name))? {
            let below = path.strip_prefix(source)?.to_owned();
            if is_test(&below) {
                continue;
            }
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
            let module = module_of(&below);
            let imports = imports(&file, &module);
            let found = breaches_of(layer, &imports);
            breaches.extend(found.map(|breach| format!("{}: {breach}", below.display())));
            for import in &imports.found {
                let (from, to) = (room(&module), room(import));
                if import.first().is_some_and(|first| first == "crate") && from != to {
                    arrows.entry(from).or_default().insert(to);
                }
            }
        }
    }
    breaches.extend(
        cycle(&arrows)
            .map(|rooms| format!("these import each other in a circle: {}", rooms.join(" → "))),
    );
    Ok(breaches)
}

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn is_test(path: &Path) -> bool {
    path.iter()
        .any(|part| part == "tests" || part == "tests.rs")
}

/// `crate`, then the modules down to a file.
fn module_of(path: &Path) -> Vec<String> {
    let parts = path.with_extension("");
    let parts = parts.iter().map(|part| part.to_string_lossy().into_owned());
    let mut module = vec!["crate".to_owned()];
    module.extend(parts.filter(|part| part != "mod"));
    module
}

/// The room that a path in the crate is in: its layer, and the entry in the layer.
fn room(path: &[String]) -> String {
    let parts: Vec<&str> = path.iter().skip(1).take(2).map(String::as_str).collect();
    parts.join("/")
}

/// All violations in a file of this layer.
fn breaches_of(layer: &Layer, imports: &Imports) -> impl Iterator<Item = String> {
    // Whoever has a value of the type could call these methods, without an import.
    let foreign = imports.found.iter().filter(|import| {
        let is_another = |to: &String| to != layer.name && import[0] == "crate";
        import.get(1).is_some_and(is_another)
            && import
                .last()
                .is_some_and(|name| imports.extended.contains(name))
    });
    let foreign = foreign.map(|import| {
        let path = import.join("::");
        format!("{} must not implement methods of {path}", layer.name)
    });
    let paths = imports.found.iter();
    paths
        .filter_map(|import| breach(layer, import))
        .chain(foreign)
}

/// The violation if this layer imports this path.
fn breach(layer: &Layer, import: &[String]) -> Option<String> {
    let path = import.join("::");
    if import.first().is_none_or(|first| first != "crate") {
        let is_named = |name: &&&str| path == ***name || path.starts_with(&format!("{name}::"));
        return layer
            .forbidden
            .iter()
            .find(is_named)
            .map(|name| format!("{} must not name {name}", layer.name));
    }
    // What else is in the crate's root may import any layer.
    let allowed = import
        .get(1)
        .is_some_and(|to| to == layer.name || layer.below.contains(&to.as_str()));
    (!allowed).then(|| format!("{} must not import {path}", layer.name))
}

/// Every path that a file imports or names from its root, absolute.
fn imports(file: &File, module: &[String]) -> Imports {
    let mut imports = Imports {
        module: module.to_vec(),
        found: BTreeSet::new(),
        extended: BTreeSet::new(),
    };
    imports.visit_file(file);
    imports
}

struct Imports {
    module: Vec<String>,
    found: BTreeSet<Vec<String>>,
    /// The types with methods in this file, by name.
    extended: BTreeSet<String>,
}

impl Imports {
    fn add(&mut self, path: &[String]) {
        let absolute = match path.first().map(String::as_str) {
            Some("self") => [&self.module, &path[1..]].concat(),
            Some("super") => {
                let up = path.iter().take_while(|part| *part == "super").count();
                let kept = self.module.len().saturating_sub(up).max(1);
                [&self.module[..kept], &path[up..]].concat()
            }
            _ => path.to_vec(),
        };
        self.found.insert(absolute);
    }

    /// The paths in the arguments of a macro, which are tokens only.
    fn tokens(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if let Some((inner, _, _, rest)) = cursor.any_group() {
                self.tokens(inner);
                cursor = rest;
            } else if let Some((first, rest)) = cursor.ident() {
                let mut path = vec![first.to_string()];
                cursor = rest;
                while let Some((part, rest)) = segment(cursor) {
                    path.push(part);
                    cursor = rest;
                }
                if path.len() > 1 {
                    self.add(&path);
                }
            } else if let Some((_, rest)) = cursor.token_tree() {
                cursor = rest;
            }
        }
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            UseTree::Name(name) if name.ident == "self" => self.add(before),
            UseTree::Name(name) => self.add(&with(&name.ident)),
            UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(item, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let (None, Type::Path(of)) = (&item.trait_, &*item.self_ty) {
            let name = of.path.segments.last();
            self.extended
                .extend(name.map(|name| name.ident.to_string()));
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.tree(&item.tree, &[]);
        }
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.tokens(TokenBuffer::new2(invocation.tokens.clone()).begin());
        visit::visit_macro(self, invocation);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if parts.len() > 1 {
            self.add(&parts);
        }
        visit::visit_path(self, path);
    }
}

/// `::name` at the cursor.
fn segment(cursor: Cursor<'_>) -> Option<(String, Cursor<'_>)> {
    let (first, rest) = cursor.punct()?;
    let (second, rest) = rest.punct()?;
    let (name, rest) = rest.ident()?;
    (first.as_char() == ':' && second.as_char() == ':').then(|| (name.to_string(), rest))
}

/// `#[cfg(test)]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// Rooms that import each other in a circle, if any.
fn cycle(arrows: &Arrows) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    arrows
        .keys()
        .find_map(|room| walk(room, arrows, &mut Vec::new(), &mut done))
}

fn walk<'a>(
    room: &'a str,
    arrows: &'a Arrows,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|passed| *passed == room) {
        let circle = way[start..].iter().chain([&room]);
        return Some(circle.map(|room| (*room).to_owned()).collect());
    }
    if !done.insert(room) {
        return None;
    }
    way.push(room);
    let found = arrows
        .get(room)
        .into_iter()
        .flatten()
        .find_map(|next| walk(next, arrows, way, done));
    way.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(layer: &str, module: &str, text: &str) -> Vec<String> {
        let layer = LAYERS.iter().find(|it| it.name == layer).unwrap();
        let file = syn::parse_file(text).unwrap();
        let module = module_of(Path::new(module));
        breaches_of(layer, &imports(&file, &module)).collect()
    }

    #[test]
    fn imports_go_downwards_only() {
        let upwards = "use crate::{core::event::Event, machine::{clock, files}};";
        assert_eq!(found("core", "core/tracker/mod.rs", upwards).len(), 2);
        assert_eq!(found("machine", "machine/audit.rs", upwards), [""; 0]);
        let inline = "fn f() { crate::output::schema(); super::super::output::x(); }";
        assert_eq!(found("machine", "machine/audit.rs", inline).len(), 2);
        let root = "use crate::{event::Event, fuzzing, *}; fn f() { crate::run(); }";
        assert_eq!(found("core", "core/format.rs", root).len(), 4);
        let zone = "use jiff::tz::TimeZone; fn f() { TimeZone::system(); }";
        assert_eq!(found("output", "output/pretty.rs", zone).len(), 1);
        let methods = "use crate::core::event::Backend; struct Own; impl Own {} impl Backend {}";
        assert_eq!(found("machine", "machine/bpf/hooks.rs", methods).len(), 1);
        assert_eq!(found("core", "core/filter.rs", methods), [""; 0]);
        let system = "use std::{fmt, fs}; fn now() { libc::time(); }";
        assert_eq!(found("core", "core/format.rs", system).len(), 2);
        let macros =
            "fn f() { ensure!(vec![crate::output::x()] == super::super::output::y(z), \"\"); }";
        assert_eq!(found("machine", "machine/audit.rs", macros).len(), 2);
        let tests = "#[cfg(test)] mod tests { use crate::output::Lines; use std::fs; }";
        assert_eq!(found("core", "core/format.rs", tests), [""; 0]);
    }

    #[test]
    fn circles_are_found() {
        let arrows = |pairs: &[(&str, &str)]| {
            let mut arrows = Arrows::new();
            for (from, to) in pairs {
                let to = (*to).to_owned();
                arrows.entry((*from).to_owned()).or_default().insert(to);
            }
            arrows
        };
        assert_eq!(cycle(&arrows(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
        let circle = cycle(&arrows(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
        assert_eq!(circle, ["b", "c", "b"]);
    }
}
