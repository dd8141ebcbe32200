//! Where things are. Everything made here lives below `target/`.

use std::path::{Path, PathBuf};

/// The workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// `target/` plus a path.
pub fn target(below: &str) -> PathBuf {
    root().join("target").join(below)
}
