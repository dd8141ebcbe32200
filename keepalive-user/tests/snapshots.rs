//! # What is printed, word for word
//!
//! Help, manual pages, and the messages of what can be run anywhere, against the files in `snapshots/`.
//! After a wanted change `BLESS=1 cargo test --test snapshots` writes them anew: read the diff.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const COMMANDS: [&str; 11] = [
    "trace",
    "top",
    "list",
    "explain",
    "audit",
    "replay",
    "report",
    "doctor",
    "schema",
    "completions",
    "man",
];

/// Standard output and standard error of a run, the exit code first if it is not 0.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_keepalive"))
        .args(arguments)
        .env("TZ", "UTC")
        .env("COLUMNS", "100")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("keepalive does not start");
    let code = match output.status.code() {
        Some(0) => String::new(),
        code => format!("exit code {}\n", code.unwrap_or(-1)),
    };
    [
        code,
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ]
    .concat()
}

/// Compares with the snapshots, or writes them.
fn check(name: &str, actual: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    let path: PathBuf = directory.join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, actual).expect("the snapshot cannot be written");
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differs = expected
        .lines()
        .zip(actual.lines())
        .find(|(expected, actual)| expected != actual);
    assert!(
        expected == actual,
        "{name} is not what was printed; the first line that differs, if any: {differs:?}. If the \
         change is wanted: BLESS=1 cargo test --test snapshots"
    );
}

#[test]
fn help() {
    check("help.txt", &printed(&["--help"]));
    for command in COMMANDS {
        check(
            &format!("help-{command}.txt"),
            &printed(&[command, "--help"]),
        );
    }
}

#[test]
fn manual_pages() {
    check("man.1", &printed(&["man"]));
    for command in COMMANDS {
        check(&format!("man-{command}.1"), &printed(&["man", command]));
    }
}

#[test]
fn messages() {
    let runs: &[&[&str]] = &[
        &["replay", "tests/recordings/v1.kar"],
        &["replay", "--check", "tests/recordings/v1.kar"],
        &["replay", "Cargo.toml"],
        &["replay", "no-such-file"],
        &["report", "tests/recordings/v1.kar", "-o", "report.pdf"],
        &["explain"],
        &["explain", "localhost:22"],
        &["explain", "--idle", "0"],
        &["audit", "--rule", "bogus"],
        &["audit", "--middlebox", "bogus"],
        &["audit", "--ignore-file", "Cargo.toml"],
        &["list", "-a", "localhost"],
        &["list", "-N", "no-such-namespace"],
        &["trace", "-d", "5x"],
        &["trace", "--ring-bytes", "5000"],
        &["trace", "--record-size", "1K", "--record", "x"],
        &["man", "bogus"],
        &["tarce"],
    ];
    let text: String = runs
        .iter()
        .map(|arguments| {
            format!(
                "$ keepalive {}\n{}\n",
                arguments.join(" "),
                printed(arguments)
            )
        })
        .collect();
    check("messages.txt", &text);
}
