//! # Files on the command line
//!
//! Which files are refused, with which exit code, and that no existing file is damaged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{CWD, Mode, mkfifoat};

const RECORDING: &[u8] = include_bytes!("recordings/v1.kar");

/// A directory with a recording in it; it is removed when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("keepalive-cli-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("x.kar"), RECORDING).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let command = Command::new(env!("CARGO_BIN_EXE_keepalive"))
            .args(arguments)
            .current_dir(&self.0)
            .output();
        command.expect("keepalive does not start")
    }

    /// Runs keepalive; expects this exit code, empty stdout, and one line on stderr with these
    /// words.
    fn refuses(&self, code: i32, arguments: &[&str], words: &[&str]) {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{arguments:?}: {word:?}: {stderr}");
        }
    }

    fn succeeds(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    }

    /// The names of all files in it.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fifo(path: &Path) {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

#[test]
fn a_recording_is_not_replayed_onto_itself() {
    let directory = Directory::new("itself");
    fs::hard_link(directory.path("x.kar"), directory.path("hard")).unwrap();
    symlink("x.kar", directory.path("link")).unwrap();
    for output in ["x.kar", "./x.kar", "hard", "link"] {
        for json in [&["--json"][..], &[]] {
            let arguments = [&["replay", "x.kar", "-o", output], json].concat();
            directory.refuses(2, &arguments, &["same file", "x.kar", "another file"]);
        }
        directory.refuses(2, &["replay", output, "-o", "x.kar"], &["same file"]);
    }
    // Another recording is not overwritten either; any other file is, as with other tools.
    fs::write(directory.path("y.kar"), RECORDING).unwrap();
    directory.refuses(1, &["replay", "x.kar", "-o", "y.kar"], &["is a recording"]);
    fs::write(directory.path("old.txt"), "old").unwrap();
    directory.succeeds(&["replay", "x.kar", "-o", "old.txt"]);
    directory.succeeds(&["replay", "x.kar", "-o", "/dev/null"]);
    assert_ne!(fs::read(directory.path("old.txt")).unwrap(), b"old");
    for name in ["x.kar", "y.kar", "hard"] {
        assert_eq!(fs::read(directory.path(name)).unwrap(), RECORDING, "{name}");
    }
}

#[test]
fn a_report_overwrites_only_what_it_may() {
    let directory = Directory::new("report");
    directory.succeeds(&["report", "x.kar", "-o", "r.html"]);
    let report = fs::read(directory.path("r.html")).unwrap();
    let again = ["report", "x.kar", "-o", "r.html"];
    directory.refuses(1, &again, &["r.html exists", "--force"]);
    fs::write(directory.path("r.html"), "old").unwrap();
    directory.refuses(1, &again, &["r.html exists"]);
    assert_eq!(fs::read(directory.path("r.html")).unwrap(), b"old");
    directory.succeeds(&[&again[..], &["--force"]].concat());
    assert_eq!(fs::read(directory.path("r.html")).unwrap(), report);
    // Another path of the same recording.
    fs::hard_link(directory.path("x.kar"), directory.path("x.html")).unwrap();
    let itself = ["report", "x.kar", "-o", "x.html", "--force"];
    directory.refuses(2, &itself, &["same file"]);
    symlink("r.html", directory.path("link.html")).unwrap();
    fs::create_dir(directory.path("dir.html")).unwrap();
    fifo(&directory.path("fifo.html"));
    for (name, kind) in [
        ("link.html", "a symbolic link"),
        ("dir.html", "a directory"),
        ("fifo.html", "a FIFO"),
    ] {
        for force in [&["--force"][..], &[]] {
            let arguments = [&["report", "x.kar", "-o", name], force].concat();
            directory.refuses(1, &arguments, &[name, kind, "does not exist"]);
        }
    }
    assert_eq!(fs::read(directory.path("x.kar")).unwrap(), RECORDING);
    assert_eq!(fs::read(directory.path("r.html")).unwrap(), report);
    let kept = [
        "dir.html",
        "fifo.html",
        "link.html",
        "r.html",
        "x.html",
        "x.kar",
    ];
    assert_eq!(directory.names(), kept);
}

/// The check comes before any program is attached, so this test needs no root.
#[test]
fn a_trace_records_to_a_new_file_only() {
    let directory = Directory::new("trace");
    directory.refuses(
        1,
        &["trace", "--record", "x.kar"],
        &["x.kar exists", "--force"],
    );
    symlink("nowhere", directory.path("link")).unwrap();
    fifo(&directory.path("fifo"));
    for (name, kind) in [
        ("link", "a symbolic link"),
        ("fifo", "a FIFO"),
        ("/dev/null", "a device"),
        (".", "a directory"),
    ] {
        for force in [&["--force"][..], &[]] {
            let arguments = [&["trace", "--record", name], force].concat();
            directory.refuses(1, &arguments, &[name, kind]);
        }
    }
    fs::write(directory.path("r.html"), "old").unwrap();
    directory.refuses(
        1,
        &["trace", "--report", "r.html"],
        &["r.html exists", "--force"],
    );
    let nowhere = ["trace", "--record", "none/x.kar"];
    directory.refuses(1, &nowhere, &["none/x.kar", "No such file"]);
    // The name that the recording would be rotated to.
    fs::write(directory.path("new.kar.2"), "another's").unwrap();
    let rotated = ["trace", "--record", "new.kar", "--record-size", "1M"];
    directory.refuses(1, &rotated, &["new.kar.2 exists", "--force"]);
    for (output, other) in [("--record", "a.html"), ("--report", "a.html")] {
        let twice = ["trace", output, other, "-o", "./a.html"];
        directory.refuses(2, &twice, &["same file", "a.html"]);
    }
    for options in [&["--force"][..], &["--record-size", "1M"]] {
        let replaced = ["trace", "--record", "a.html", "--report", "./a.html"];
        let arguments = [&replaced[..], options].concat();
        directory.refuses(2, &arguments, &["same file", "a.html"]);
    }
    let rotated = ["trace", "--record", "a", "--record-size", "1M", "-o", "a.1"];
    directory.refuses(2, &rotated, &["same file", "a.1"]);
    directory.refuses(1, &["trace", "-o", "x.kar"], &["is a recording"]);
    // A trace that is refused leaves the contents of the file that it would have replaced.
    fs::write(directory.path("old.txt"), "old").unwrap();
    let refused = directory.run(&["trace", "-o", "old.txt", "--btf", "/dev/null"]);
    assert_ne!(refused.status.code(), Some(0));
    assert_eq!(fs::read(directory.path("old.txt")).unwrap(), b"old");
    fs::remove_file(directory.path("old.txt")).unwrap();
    assert_eq!(fs::read(directory.path("x.kar")).unwrap(), RECORDING);
    let kept = ["fifo", "link", "new.kar.2", "r.html", "x.kar"];
    assert_eq!(directory.names(), kept);
}

/// What a recording lacks is not hidden: other files behind its end, earlier files of the same trace.
#[test]
fn an_incomplete_recording_is_not_whole() {
    let directory = Directory::new("incomplete");
    fs::write(directory.path("two.kar"), [RECORDING, RECORDING].concat()).unwrap();
    let bytes = format!("ends at byte {}", RECORDING.len());
    for command in [&["replay", "--check"][..], &["report", "-o", "two.html"]] {
        let arguments = [command, &["two.kar"]].concat();
        directory.refuses(1, &arguments, &["two.kar", &bytes, "not replayed"]);
    }
    let mut later = RECORDING.to_vec();
    renumber(&mut later, 3);
    fs::write(directory.path("later.kar"), later).unwrap();
    let output = directory.run(&["replay", "--check", "later.kar"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(!stdout.contains("whole"), "{stdout}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("later.kar continues an earlier file"),
        "{stderr}"
    );
}

/// Makes a recording the file of this number of its trace.
fn renumber(recording: &mut [u8], sequence: u8) {
    let length = u32::from_le_bytes(*recording[12..].first_chunk().unwrap()) as usize;
    let header = &mut recording[20..20 + length];
    let name = b"\"sequence\":";
    let at = header.windows(name.len()).position(|bytes| bytes == name);
    header[at.unwrap() + name.len()] = b'0' + sequence;
    let checksum = crc32fast::hash(header).to_le_bytes();
    recording[16..20].copy_from_slice(&checksum);
}

#[test]
fn what_has_no_end_is_not_read() {
    let directory = Directory::new("endless");
    for (code, arguments) in [
        (1, &["replay", "/dev/zero"][..]),
        (1, &["replay", "--check", "/dev/urandom"]),
        (1, &["report", "/dev/zero", "-o", "r.html"]),
        (2, &["audit", "--ignore-file", "/dev/zero"]),
        (1, &["trace", "--btf", "/dev/zero"]),
    ] {
        directory.refuses(code, arguments, &["cannot read /dev/", "a device"]);
    }
    directory.refuses(1, &["replay", "."], &["a directory"]);
    let long = "suppressed # and no reason\n".repeat(50_000);
    fs::write(directory.path("ignore"), long).unwrap();
    let ignore = ["audit", "--ignore-file", "ignore"];
    directory.refuses(2, &ignore, &["more than 1048576 bytes"]);
    assert!(!directory.path("r.html").exists());
}

/// A pipe is accepted: unlike /dev/zero it ends, and recordings are streamed from other hosts.
#[test]
fn a_recording_can_come_from_a_pipe() {
    let directory = Directory::new("pipe");
    let binary = env!("CARGO_BIN_EXE_keepalive");
    for script in [
        "cat x.kar | $0 replay --check -",
        "cat x.kar | $0 replay --check /dev/stdin",
    ] {
        let output = Command::new("sh")
            .args(["-c", script, binary])
            .current_dir(&directory.0)
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.ends_with("whole\n"), "{script}: {stdout}");
    }
    let onto = "$0 replay -o x.kar - < x.kar";
    let output = Command::new("sh")
        .args(["-c", onto, binary])
        .current_dir(&directory.0)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(directory.path("x.kar")).unwrap(), RECORDING);
}

/// A truncated recording is replayed up to the cut; `--check` fails, and the report has it on its page.
#[test]
fn a_truncated_recording_is_not_whole() {
    let directory = Directory::new("truncated");
    directory.succeeds(&["replay", "--check", "x.kar"]);
    fs::write(directory.path("cut.kar"), &RECORDING[..RECORDING.len() - 9]).unwrap();
    let checked = directory.run(&["replay", "--check", "cut.kar"]);
    assert_eq!(checked.status.code(), Some(1));
    let stdout = String::from_utf8(checked.stdout).unwrap();
    assert!(stdout.contains("cut.kar is truncated at byte"), "{stdout}");
    let replayed = directory.run(&["replay", "cut.kar"]);
    assert_eq!(replayed.status.code(), Some(0));
    let stdout = String::from_utf8(replayed.stdout).unwrap();
    let words = "cut.kar is truncated at byte 1";
    assert!(stdout.contains(words), "{stdout}");
    assert!(!stdout.contains("Nothing was lost."), "{stdout}");
    directory.succeeds(&["report", "cut.kar", "-o", "cut.html"]);
    let page = fs::read_to_string(directory.path("cut.html")).unwrap();
    assert!(page.contains(words), "no word of the cut on the page");
    // Damage is an error, and on the page, too.
    let mut damaged = RECORDING.to_vec();
    let last = damaged.len() - 9;
    damaged[last] ^= 1;
    fs::write(directory.path("bad.kar"), damaged).unwrap();
    let reported = directory.run(&["report", "bad.kar", "-o", "bad.html"]);
    assert_eq!(reported.status.code(), Some(1));
    let page = fs::read_to_string(directory.path("bad.html")).unwrap();
    assert!(
        page.contains("bad.kar: damaged at byte"),
        "no word of the damage on the page"
    );
}

/// RLIMIT_FSIZE is an error, not SIGXFSZ.
#[test]
fn the_limit_of_the_file_size_is_an_error() {
    let directory = Directory::new("fsize");
    let program = env!("CARGO_BIN_EXE_keepalive");
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -f 1; exec {program} schema trace > out"))
        .current_dir(&directory.0)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}: {stderr}", output.status);
    assert!(stderr.contains("File too large"), "{stderr}");
}

/// SIGHUP and SIGQUIT end a repeated listing as SIGTERM does.
#[test]
fn signals_end_a_repeated_listing() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::io::Read;
    for signal in [Signal::HUP, Signal::QUIT, Signal::TERM, Signal::INT] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keepalive"))
            .args([
                "list",
                "--watch",
                "1",
                "--source",
                "sock-diag",
                "--no-owner",
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut rest = Vec::new();
        stdout.read_to_end(&mut rest).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
    }
}
