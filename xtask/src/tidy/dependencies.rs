//! Checks dependencies: each is declared once, in the workspace, without default features, and is used.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};

/// All violations in the manifests of the workspace and its members.
pub fn breaches(root: &Path, members: &[&str]) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let mut used = BTreeSet::new();
    for member in members {
        let manifest = read(&root.join(member).join("Cargo.toml"))?;
        let mut code = String::new();
        for file in super::sources(&root.join(member))? {
            code += &read(&file)?;
        }
        let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
        for line in sections.into_iter().flat_map(|it| section(&manifest, it)) {
            let inherited = line.split_once(".workspace = true");
            let extended = line.split_once(" = { workspace = true, features = ");
            let Some((name, _)) = inherited.or(extended) else {
                breaches.push(format!("{member}/Cargo.toml: not of the workspace: {line}"));
                continue;
            };
            used.insert(name.to_owned());
            if !names(&code, &name.replace('-', "_")) {
                breaches.push(format!("{member}/Cargo.toml: {name} is not used"));
            }
        }
    }
    let manifest = read(&root.join("Cargo.toml"))?;
    for line in section(&manifest, "workspace.dependencies") {
        let name = line.split(' ').next().unwrap_or_default();
        if !used.contains(name) {
            breaches.push(format!("Cargo.toml: no member depends on {name}"));
        }
        if !line.contains("default-features = false") {
            breaches.push(format!("Cargo.toml: {name} with its default features"));
        }
    }
    Ok(breaches)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The entries of a section of a manifest, a line each.
fn section<'a>(manifest: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let heading = format!("[{name}]");
    let lines = manifest.lines().skip_while(move |line| *line != heading);
    lines
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Whether code names a crate, as a whole word.
fn names(code: &str, word: &str) -> bool {
    let is_inner = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_inner) && !after.is_some_and(is_inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_words() {
        let manifest = "[a]\nx = 1\n\n[b]\n# why\ny.workspace = true\nz = 2\n[c]\nw = 3\n";
        let entries: Vec<&str> = section(manifest, "b").collect();
        assert_eq!(entries, ["y.workspace = true", "z = 2"]);
        assert!(names("use zstd::bulk;", "zstd"));
        assert!(!names("let zstd_level = 1;", "zstd"));
    }
}
