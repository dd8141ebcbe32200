//! Checks the pages for contributors: every path that they name exists.

use std::{fs, path::Path};

use anyhow::{Context, Result};

const PAGES: &[&str] = &["docs/ARCHITECTURE.md", "docs/CONTRIBUTING.md"];

/// All paths that do not exist. A page may leave out the first folders of a path.
pub fn breaches(root: &Path) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let mut there = Vec::new();
    for folder in super::CRATES.iter().chain(&["docs"]) {
        there.push(root.join(folder));
        there.extend(super::entries(&root.join(folder))?);
    }
    for page in PAGES {
        let text = fs::read_to_string(root.join(page)).context(*page)?;
        let missing = paths(&text).filter(|path| !there.iter().any(|it| it.ends_with(path)));
        breaches.extend(missing.map(|path| format!("{page}: {path} does not exist")));
    }
    Ok(breaches)
}

/// The paths in code spans: with a slash, or of a source file. What a build makes is not checked.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter(|span| {
        let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        (span.contains('/') || span.ends_with(".rs"))
            && span.chars().all(is_path)
            && !span.starts_with("target/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_are_checked() {
        let text = "`core/` and `a.rs`, `src/*.rs`, `target/x`, `cargo xtask a/b`, `tidy`, c/d.rs";
        assert!(paths(text).eq(["core/", "a.rs"]));
    }
}
