//! Paths. All generated files are below `target/`.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// A path below `target/`.
pub fn target(below: &str) -> PathBuf {
    root().join("target").join(below)
}
