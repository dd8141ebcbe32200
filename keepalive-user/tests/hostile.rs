//! # Hostile recordings
//!
//! Small files that expand: zstd compresses a block of 1 MiB to a few hundred bytes. No command
//! that reads such a file may use much memory. The files are generated here because the recorder
//! never writes them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest block that the reader accepts, bytes.
const BLOCK: usize = 1 << 20;
const COMPRESSED: u32 = 1 << 31;
/// Memory limit for each of these files, MiB. Without bounds each file exceeds it in at least one
/// command.
const MOST: i64 = 128;

/// A file under construction; it is removed when the test ends.
struct Hostile {
    path: PathBuf,
    file: File,
    block: Vec<u8>,
}

impl Hostile {
    /// Starts with the header of a valid recording.
    fn new(name: &str) -> Self {
        let name = format!("keepalive-hostile-{name}-{}.kar", std::process::id());
        let path = std::env::temp_dir().join(name);
        let sound = include_bytes!("recordings/v2.kar");
        let length = u32::from_le_bytes(sound[12..16].try_into().unwrap());
        let mut file = File::create(&path).unwrap();
        file.write_all(&sound[..20 + length as usize]).unwrap();
        let block = Vec::new();
        Self { path, file, block }
    }

    fn frame(&mut self, kind: u8, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if self.block.len() + 3 + length > BLOCK {
            self.flush();
        }
        self.block.push(kind);
        self.block
            .extend(u16::try_from(length).unwrap().to_le_bytes());
        parts.iter().for_each(|part| self.block.extend(*part));
    }

    /// The end of the trace.
    fn end(&mut self) {
        let time: u64 = 2_000_000_000_000;
        self.frame(8, &[&time.to_le_bytes()]);
    }

    fn flush(&mut self) {
        let stored = zstd::bulk::compress(&self.block, 1).unwrap();
        let prefix = [
            stored.len() as u32 | COMPRESSED,
            self.block.len() as u32,
            crc32fast::hash(&stored),
        ];
        for number in prefix {
            self.file.write_all(&number.to_le_bytes()).unwrap();
        }
        self.file.write_all(&stored).unwrap();
        self.block.clear();
    }

    /// A socket's owner.
    fn owner(&mut self, inode: u64, name: &[u8]) {
        let (pid, length) = (inode as u32, name.len() as u16);
        self.frame(
            3,
            &[
                &inode.to_le_bytes(),
                &[1],
                &pid.to_le_bytes(),
                &length.to_le_bytes(),
                name,
            ],
        );
    }

    fn cgroup(&mut self, id: u64, path: &[u8]) {
        let length = (path.len() as u16).to_le_bytes();
        self.frame(4, &[&id.to_le_bytes(), &[1], &length, path]);
    }

    fn finding(&mut self, json: &str) {
        let length = (json.len() as u16).to_le_bytes();
        self.frame(6, &[&length, json.as_bytes()]);
    }

    /// A record of the socket at address `sk`, with only its nonzero words.
    fn record(&mut self, head: [u8; 4], sk: u32, cgroup: u32) {
        // Word 0 holds the kind, word 8 the address, word 14 the cgroup id.
        let mask = (1u128 | 1 << 8 | 1 << 14).to_le_bytes();
        self.frame(
            1,
            &[
                &[mask.len() as u8],
                &mask,
                &head,
                &sk.to_le_bytes(),
                &cgroup.to_le_bytes(),
            ],
        );
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A finished run, and its peak memory in MiB.
struct Run {
    code: Option<i32>,
    stderr: String,
    memory: i64,
}

#[expect(
    clippy::zombie_processes,
    reason = "`wait4` waits for it and returns its peak memory"
)]
fn run(arguments: &[&str], path: &Path) -> Run {
    let errors = path.with_extension("stderr");
    let child = Command::new(env!("CARGO_BIN_EXE_keepalive"))
        .args(arguments)
        .arg(path)
        .stdout(Stdio::null())
        .stderr(File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let (mut status, mut usage) = (0, no_usage());
    // SAFETY: both pointers are to locals; the child is ours and not waited for elsewhere.
    let ended = unsafe { libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage) };
    assert_eq!(ended, child.id() as i32);
    let stderr = fs::read_to_string(&errors).unwrap();
    fs::remove_file(&errors).unwrap();
    Run {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        stderr,
        memory: usage.ru_maxrss >> 10,
    }
}

fn no_usage() -> libc::rusage {
    // SAFETY: a struct of numbers.
    unsafe { std::mem::zeroed() }
}

/// Runs every command that reads recordings: each stays within the memory limit and exits with this
/// code.
fn expect(mut file: Hostile, code: i32, words: &str) {
    file.end();
    file.flush();
    let size = file.path.metadata().unwrap().len() >> 10;
    let [page, picture] = ["html", "svg"].map(|it| file.path.with_extension(it));
    for arguments in [
        &["replay", "--check"][..],
        &["replay"],
        &["replay", "--json"],
        &["report", "-o", page.to_str().unwrap()],
        &["report", "-o", picture.to_str().unwrap()],
    ] {
        let run = run(arguments, &file.path);
        let [command, ..] = arguments else { continue };
        eprintln!("{size} KiB: {arguments:?}: {} MiB", run.memory);
        assert_eq!(run.code, Some(code), "{command}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{command}: {}", run.stderr);
        assert!(run.memory < MOST, "{arguments:?} took {} MiB", run.memory);
    }
    for made in [page, picture] {
        let _ = fs::remove_file(made);
    }
}

/// Owner names longer than the reader accepts. Such a file once took 2.9 GB of memory.
#[test]
fn owner_names_are_bounded() {
    let mut file = Hostile::new("names");
    let name = vec![b'a'; 65_000];
    for inode in 1..=44_000 {
        file.owner(inode, &name);
    }
    expect(file, 1, "65000 bytes exceeds the limit of 64 bytes");
}

#[test]
fn owners_are_bounded() {
    let mut file = Hostile::new("owners");
    let name = vec![b'a'; 64];
    for inode in 1..=600_000 {
        file.owner(inode, &name);
    }
    expect(file, 0, "");
}

#[test]
fn cgroups_are_bounded() {
    let mut file = Hostile::new("cgroups");
    let path = vec![b'/'; 4096];
    for id in 1..=32_000 {
        file.cgroup(id, &path);
        // Every fourth cgroup has a socket: reports print the cgroup of a socket.
        if id % 4 == 0 {
            file.record([4, 0, 0, 3], id as u32, id as u32);
        }
    }
    expect(file, 0, "");
}

#[test]
fn findings_are_bounded() {
    let mut file = Hostile::new("findings");
    let evidence = "<".repeat(7_000);
    for number in 0..3_000 {
        file.finding(&format!(
            r#"{{"timestamp":"2026-01-01T00:00:00Z","monotonic_ns":1,"rule":"rule{}","severity":"info","socket":null,"process":null,"container_id":null,"netns":1,"evidence":"{evidence}","consequence":"","remedy":""}}"#,
            number % 60
        ));
    }
    expect(file, 0, "");
}

/// Each socket ends within a timer run whose record never arrives.
#[test]
fn pending_ends_are_bounded() {
    let mut file = Hostile::new("ends");
    for sk in 1..=220_000 {
        file.record([5, 0, 1, 1], sk, 0);
    }
    expect(file, 0, "");
}

/// A record of an unknown kind is counted as lost and produces no event.
#[test]
fn unknown_kinds_are_counted() {
    let mut file = Hostile::new("kinds");
    for kind in 0..=255 {
        file.record([kind, 0, 0, 1], 7, 0);
    }
    // Unknown flags, an unknown timer, an unknown kind of loss.
    file.record([1, 0x80, 0, 1], 7, 0);
    file.record([1, 0, 9, 1], 7, 0);
    file.frame(5, &[&[99], &[1; 16]]);
    // An unknown kind of frame.
    file.frame(99, &[&[1; 16]]);
    file.flush();
    let output = Command::new(env!("CARGO_BIN_EXE_keepalive"))
        .args(["replay", "--json"])
        .arg(&file.path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let end = lines.last().unwrap();
    // All kinds except 1 to 9 and 128 are unknown, and so are the last four frames.
    assert_eq!(end["lost"]["decode"], 256 - 10 + 4);
    let armed = lines.iter().filter(|line| line["event"] == "armed");
    // Only the setsockopt and the established connection produce `armed` events.
    assert_eq!(armed.count(), 2);
    let lost = lines.iter().filter(|line| line["event"] == "lost");
    assert!(lost.count() <= 4, "losses in a row are reported together");
}
