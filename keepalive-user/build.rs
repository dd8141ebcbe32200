//! Builds the BPF object with the toolchain that `cargo xtask setup` found, so that plain cargo
//! commands and editors work. The object is at `OUT_DIR/keepalive-bpf`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let toolchain = workspace.join("target/toolchain");
    for input in [
        "keepalive-ebpf/src",
        "keepalive-ebpf/Cargo.toml",
        "Cargo.lock",
        "target/toolchain",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    let Ok(found) = fs::read_to_string(&toolchain) else {
        println!("cargo::error=no toolchain for the BPF side yet: run `cargo xtask setup` first");
        return;
    };
    let found = |key: &str| {
        let prefix = format!("{key}=");
        let found = found.lines().find_map(|line| line.strip_prefix(&prefix));
        found.map(str::to_owned).unwrap_or_else(|| {
            panic!(
                "{} has no {key}: remove it and run `cargo xtask setup`",
                toolchain.display()
            )
        })
    };
    let out = PathBuf::from(variable("OUT_DIR"));
    let mut build = cargo_build(found, &workspace, &out);
    let status = build
        .status()
        .unwrap_or_else(|error| panic!("cannot run {build:?}: {error}"));
    assert!(
        status.success(),
        "building the BPF side ended with {status}"
    );
    let object = out.join("bpf").join(TARGET).join("release/keepalive-bpf");
    copy(&object, &out.join("keepalive-bpf"));
}

/// The cargo command that builds the object.
fn cargo_build(found: impl Fn(&str) -> String, workspace: &Path, out: &Path) -> Command {
    let mut build = Command::new(found("cargo"));
    build
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "keepalive-ebpf",
            "--bin",
            "keepalive-bpf",
        ])
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(out.join("bpf"))
        .current_dir(workspace);
    scrub(&mut build);
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // bpf-linker converts debug information to BTF, which the kernel shows with the programs.
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", found("linker")),
    ];
    build
        .env("RUSTC", found("rustc"))
        // build-std and the BPF target are unstable; RUSTC_BOOTSTRAP enables them in a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    build
}

/// Removes the settings of this build: they are for the host, and must not reach the BPF build.
fn scrub(build: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = text.starts_with("CARGO")
            && text != "CARGO_HOME"
            && !text.starts_with("CARGO_NET")
            && !text.starts_with("CARGO_HTTP")
            && !text.starts_with("CARGO_REGISTR")
            && !text.starts_with("CARGO_SOURCE");
        let is_compiler = matches!(
            &*text,
            "RUSTC"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "RUSTDOC"
                | "RUSTFLAGS"
                | "RUSTUP_TOOLCHAIN"
        );
        if is_setting || is_compiler {
            build.env_remove(&name);
        }
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| {
        panic!(
            "cannot copy {} to {}: {error}",
            from.display(),
            to.display()
        )
    });
}
