//! The rules of this repository that no linter checks.

mod dependencies;
mod layers;
mod pages;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::paths;

const LONGEST_FILE: usize = 500;
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "keepalive-ebpf",
    "keepalive-user",
    "xtask",
    "README.md",
    "docs",
    "target",
];
const CRATES: &[&str] = &["keepalive-ebpf", "keepalive-user", "xtask"];

/// Fails with a list of all violations.
pub fn check() -> Result<()> {
    let mut breaches = top_level()?;
    for name in CRATES {
        for file in sources(&paths::root().join(name))? {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let shown = file.strip_prefix(paths::root()).unwrap_or(&file).display();
            breaches.extend(
                breaches_of(&text)
                    .into_iter()
                    .map(|breach| format!("{shown}: {breach}")),
            );
        }
    }
    breaches.extend(dependencies::breaches(paths::root(), CRATES)?);
    breaches.extend(pages::breaches(paths::root())?);
    breaches.extend(layers::breaches(&paths::root().join("keepalive-user/src"))?);
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("not tidy:\n  {}", breaches.join("\n  "))
}

/// Checks the top level, whose entries are fixed.
fn top_level() -> Result<Vec<String>> {
    let entries = fs::read_dir(paths::root()).context("cannot read the workspace")?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names
        .filter(|name| {
            !name.starts_with('.')
                && !name.starts_with("LICENSE")
                && !TOP_LEVEL.contains(&name.as_str())
        })
        .map(|name| format!("{name}: not an allowed top-level entry"))
        .collect())
}

/// The source files below a directory.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = entries(directory)?;
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    Ok(found)
}

/// All that is below a directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let listed = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    for path in listed.flatten().map(|entry| entry.path()) {
        // The fuzz targets are a workspace of their own, and may have been built in it.
        if path.is_dir() && !path.ends_with("target") {
            found.extend(entries(&path)?);
        }
        found.push(path);
    }
    Ok(found)
}

fn breaches_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        found.push(format!("{lines} lines, at most {LONGEST_FILE}"));
    }
    if !text.starts_with("//!") {
        found.push("does not open with a module comment (//!)".to_owned());
    }
    if text.contains(concat!("/ho", "me/")) || text.contains(concat!("/ro", "ot/.")) {
        found.push("names a path of someone's machine".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_breaches() {
        assert!(breaches_of("//! Good.\n").is_empty());
        assert_eq!(breaches_of("fn main() {}\n").len(), 1);
        assert_eq!(
            breaches_of(&format!("//! Long.\n{}", "\n".repeat(LONGEST_FILE))).len(),
            1
        );
    }
}
