//! Checks the documentation: every path that it names exists.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Where the paths of a page may begin, besides the root.
const SOURCE: &str = "keepalive-user/src";

/// All paths that do not exist, or could be several.
pub fn breaches(root: &Path) -> Result<Vec<String>> {
    let mut there = Vec::new();
    for folder in super::CRATES.iter().chain(&["docs"]) {
        there.push(root.join(folder));
        there.extend(super::entries(&root.join(folder))?);
    }
    let there: Vec<&Path> = there
        .iter()
        .filter_map(|path| path.strip_prefix(root).ok())
        .collect();
    let is_page =
        |path: &&Path| path.starts_with("docs") && path.extension() == Some("md".as_ref());
    let pages = there.iter().copied().filter(is_page);
    let mut breaches = Vec::new();
    for page in pages.chain([Path::new("README.md")]) {
        let text =
            fs::read_to_string(root.join(page)).with_context(|| page.display().to_string())?;
        let bad = paths(&text).filter(|path| !is_one(path, &there));
        breaches.extend(bad.map(|path| {
            format!(
                "{}: {path} does not exist, or several end like this",
                page.display()
            )
        }));
    }
    Ok(breaches)
}

/// Whether a path, from the root, from [`SOURCE`] or without its first folders, is that of one entry.
fn is_one(path: &str, there: &[&Path]) -> bool {
    let whole = [PathBuf::from(path), Path::new(SOURCE).join(path)];
    there.iter().any(|it| whole.iter().any(|path| path == it))
        || there.iter().filter(|it| it.ends_with(path)).count() == 1
}

/// The paths in code spans: with a slash, or of a source file. Absolute ones and what a build makes are
/// not checked.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter(|span| {
        let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        (span.contains('/') || span.ends_with(".rs"))
            && span.chars().all(is_path)
            && !span.starts_with('/')
            && !span.starts_with("target/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_are_checked() {
        let text = "`core/` and `a.rs`, `src/*.rs`, `target/x`, `/proc`, `cargo xtask a/b`, `tidy`, c/d.rs";
        assert!(paths(text).eq(["core/", "a.rs"]));
    }

    #[test]
    fn a_path_is_that_of_one_entry() {
        let there = [
            "keepalive-user/src/core/a.rs",
            "keepalive-user/tests/core/a.rs",
            "xtask/b.rs",
        ];
        let there = there.map(Path::new);
        for (path, expected) in [
            ("b.rs", true),
            ("a.rs", false),
            ("core/a.rs", true),
            ("tests/core/a.rs", true),
            ("re/a.rs", false),
        ] {
            assert_eq!(is_one(path, &there), expected, "{path}");
        }
    }
}
