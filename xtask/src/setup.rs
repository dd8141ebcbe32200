//! `cargo xtask setup`: a compiler that can build `core` for BPF, and bpf-linker.
//!
//! The result is written to `target/toolchain`, where `keepalive-user/build.rs` reads it, so
//! that plain cargo commands and editors work too.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    packages::{self, Tool},
    paths, run,
};

/// The version of bpf-linker that matches Debian's compiler and LLVM.
const LINKER: &str = "0.13.0";
/// The version of LLVM, and the features that select it.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LLVM_FEATURE: &str = "llvm-22";

/// Debian's newer compiler, distinguished from its older one (`rustc`) by the package's own directory, and
/// the matching source of `core`. Stable rustup also needs that: the `rust-src` component is not in any
/// package registry.
const DEBIAN: &[Tool] = &[
    Tool {
        path: "/usr/share/doc/rustc-web",
        package: "rustc-web",
    },
    Tool {
        path: "/usr/share/doc/cargo-web",
        package: "cargo-web",
    },
    Tool {
        path: "/usr/share/doc/rust-web-src",
        package: "rust-web-src",
    },
    Tool {
        path: "/usr/lib/llvm-22/bin/llvm-config",
        package: "llvm-22-dev",
    },
    Tool {
        path: "cc",
        package: "gcc",
    },
    Tool {
        path: "c++",
        package: "g++",
    },
    Tool {
        path: "/usr/lib/x86_64-linux-gnu/libc.a",
        package: "libc6-dev",
    },
];

/// A compiler for the BPF side.
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
}

/// Finds a toolchain, or installs one.
pub fn ensure() -> Result<Toolchain> {
    let toolchain = match from_rustup() {
        Some(toolchain) => toolchain,
        None => from_debian()?,
    };
    toolchain.write()?;
    Ok(toolchain)
}

/// A rustup toolchain with `rust-src`, nightly first, and bpf-linker in PATH.
fn from_rustup() -> Option<Toolchain> {
    let linker = run::first_line(Command::new("which").arg("bpf-linker"))?;
    ["nightly", "stable"].iter().find_map(|name| {
        let which = |program| {
            run::first_line(Command::new("rustup").args(["which", "--toolchain", name, program]))
                .map(PathBuf::from)
        };
        let rustc = which("rustc")?;
        let sysroot = run::first_line(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        source.exists().then_some(())?;
        Some(Toolchain {
            cargo: which("cargo")?,
            rustc,
            linker: linker.clone().into(),
        })
    })
}

fn from_debian() -> Result<Toolchain> {
    packages::ensure(DEBIAN).context(
        "building the BPF side takes a compiler with the source of core: either these packages, \
         or `rustup toolchain install nightly --component rust-src && cargo install bpf-linker`",
    )?;
    Ok(Toolchain {
        cargo: "/usr/bin/cargo".into(),
        rustc: "/usr/bin/rustc".into(),
        linker: own_linker()?,
    })
}

/// bpf-linker built for Debian's LLVM, kept below target/.
fn own_linker() -> Result<PathBuf> {
    let root = paths::target("tools");
    let linker = root.join("bin/bpf-linker");
    let version = run::first_line(Command::new(&linker).arg("--version")).unwrap_or_default();
    if version.contains(LINKER) {
        return Ok(linker);
    }
    eprintln!("[setup] building bpf-linker {LINKER}, about a minute");
    let mut install = Command::new("cargo");
    install
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--force",
            "--no-default-features",
        ])
        .args(["--version", LINKER, "--features", LLVM_FEATURE, "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env("CARGO_TARGET_DIR", paths::target("tools/build"));
    run::step("cargo install bpf-linker", &mut install)?;
    Ok(linker)
}

/// The version of cargo-deny that checks the dependencies.
const DENY: &str = "0.20.2";

/// cargo-deny: the one in PATH, or one built below target/.
///
/// # Errors
/// If it cannot be built.
pub fn deny() -> Result<PathBuf> {
    if let Some(deny) = packages::find("cargo-deny") {
        return Ok(deny);
    }
    let root = paths::target("tools");
    let deny = root.join("bin/cargo-deny");
    let version = run::first_line(Command::new(&deny).arg("--version")).unwrap_or_default();
    if version.contains(DENY) {
        return Ok(deny);
    }
    eprintln!("[setup] building cargo-deny {DENY}, some minutes");
    let mut install = Command::new("cargo");
    install
        .args(["install", "cargo-deny", "--debug", "--locked", "--force"])
        .args(["--version", DENY, "--root"])
        .arg(&root)
        .env("CARGO_TARGET_DIR", paths::target("tools/build"));
    run::step("cargo install cargo-deny", &mut install)?;
    Ok(deny)
}

impl Toolchain {
    /// Does not rewrite an unchanged file: a new time stamp would rebuild the BPF side.
    fn write(&self) -> Result<()> {
        let text = format!(
            "cargo={}\nrustc={}\nlinker={}\n",
            self.cargo.display(),
            self.rustc.display(),
            self.linker.display()
        );
        let path = paths::target("toolchain");
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::create_dir_all(paths::target("")).context("cannot make target/")?;
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        eprint!("[setup] BPF toolchain:\n{text}");
        Ok(())
    }
}
