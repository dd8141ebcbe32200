//! # Command line checks
//!
//! What works without root: help, usage errors, and the error for a user without the capabilities
//! to trace. What needs root is in `scenarios/`.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

const NOBODY: u32 = 65534;

/// A finished run.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn keepalive(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_keepalive"))
        .args(arguments)
        .output();
    output.expect("keepalive does not start").into()
}

/// Runs it as the user `nobody`, also where the tests run as root.
fn keepalive_as_nobody(arguments: &[&str]) -> Run {
    let root = rustix::process::geteuid().is_root();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_keepalive"));
    if !root {
        return keepalive(arguments);
    }
    // The user `nobody` may have no permission for the target directory.
    let name = arguments.join("").replace(['/', '-', ' '], "");
    let copy = std::env::temp_dir().join(format!("keepalive-{}-{name}", std::process::id()));
    std::fs::copy(&binary, &copy).expect("the binary cannot be copied");
    let mut command = Command::new(&copy);
    command.args(arguments).uid(NOBODY).gid(NOBODY);
    let mut output = command.output();
    // execve returns ETXTBSY while a child that another test has just forked still holds the
    // descriptor that the copy was written through.
    while matches!(&output, Err(error) if error.kind() == ErrorKind::ExecutableFileBusy) {
        std::thread::yield_now();
        output = command.output();
    }
    std::fs::remove_file(&copy).expect("the copy cannot be removed");
    output.expect("keepalive does not start").into()
}

#[test]
fn help_goes_to_stdout_and_succeeds() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["help"],
        &["trace", "--help"],
        &["top", "--help"],
        &["list", "--help"],
        &["explain", "--help"],
        &["audit", "--help"],
        &["report", "--help"],
        &["doctor", "--help"],
        &["schema", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
    ] {
        let run = keepalive(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
        assert!(run.stdout.contains("Usage:"), "{arguments:?}");
        assert_eq!(run.stderr, "", "{arguments:?}");
    }
}

#[test]
fn help_names_every_option_of_trace() {
    let help = keepalive(&["trace", "--help"]).stdout;
    for option in [
        "--json",
        "--backend",
        "--btf",
        "--ring-bytes",
        "--live-answers",
        "--report",
        "--audit",
        "-p",
        "-L",
        "-R",
        "-a",
        "-4",
        "-6",
        "-N",
        "-c",
        "-n",
        "-d",
        "-o",
        "-v",
    ] {
        let mentioned = help
            .split(|character: char| character.is_whitespace() || character == ',')
            .any(|word| word == option);
        assert!(mentioned, "{option} is not in the help:\n{help}");
    }
}

#[test]
fn a_cgroup_is_below_the_mount() {
    expect_usage_error(&["trace", "-c", "../.."], &["cgroup"]);
}

#[test]
fn top_needs_a_terminal() {
    expect_usage_error(&["top"], &["terminal", "keepalive trace"]);
    expect_usage_error(&["top", "-L", "0"], &["--local-port"]);
}

#[test]
fn explain_rejects_bad_arguments() {
    expect_usage_error(&["explain"], &["which socket?", ":5432", "--idle 60"]);
    expect_usage_error(&["explain", "host:22"], &["host:22", "ADDR:PORT"]);
    expect_usage_error(&["explain", ":x"], &["not a port"]);
    expect_usage_error(&["explain", "--idle", "0"], &["--idle"]);
    expect_usage_error(&["explain", ":22", "--idle", "60"], &["--idle"]);
    expect_usage_error(&["explain", "--follow"], &["SOCKET"]);
    expect_usage_error(&["explain", ":0"], &["not a port"]);
    // The calculator looks at no socket.
    for more in [
        &["--follow"][..],
        &["--watch", "1s"],
        &["--all-netns"],
        &["-N", "x"],
    ] {
        let arguments = [&["explain", "--idle", "60"], more].concat();
        expect_usage_error(&arguments, &["--idle", more[0].trim_end_matches("-N")]);
    }
    expect_usage_error(&["explain", ":22", "-N", "none"], &["no network namespace"]);
    expect_usage_error(&["explain", ":22", "--watch", "soon"], &["30s", "10m"]);
    let run = keepalive(&[
        "explain",
        "--idle",
        "15",
        "--interval",
        "15",
        "--user-timeout",
        "20000",
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(
        run.stdout.contains("TCP_KEEPCNT 9 has no effect"),
        "{}",
        run.stdout
    );
}

#[test]
fn audit_rejects_unknown_values() {
    expect_usage_error(&["audit", "--rule", "bogus"], &["bogus", "zombie_suspect"]);
    expect_usage_error(
        &["audit", "--ignore", "zombie"],
        &["zombie_suspect, late_for_middlebox"],
    );
    expect_usage_error(
        &["audit", "--rule", "zombie_suspct"],
        &["a similar value exists: 'zombie_suspect'"],
    );
    expect_usage_error(
        &["audit", "--fail-on", "worst"],
        &["critical", "zombie_suspect"],
    );
    expect_usage_error(
        &["audit", "--middlebox", "aws-nbl"],
        &["aws-nlb", "--idle-timeout"],
    );
    let both = ["audit", "--rule", "suppressed", "--ignore", "suppressed"];
    expect_usage_error(&both, &["--rule suppressed and --ignore suppressed"]);
    expect_usage_error(&["audit", "--idle-timeout", "soon"], &["30s", "10m"]);
    expect_usage_error(
        &["audit", "--ignore-file", "/nonexistent"],
        &["/nonexistent"],
    );
}

#[test]
fn report_rejects_bad_arguments() {
    expect_usage_error(&["report"], &["FILE", "--output"]);
    expect_usage_error(&["report", "x.kar"], &["--output"]);
    for name in ["report", "report.pdf", ".html"] {
        expect_usage_error(&["report", "x.kar", "-o", name], &[name, ".html or .svg"]);
        expect_usage_error(&["trace", "--report", name], &[name, ".html or .svg"]);
    }
    let socket = ["report", "x.kar", "-o", "x.svg", "--socket", "host:22"];
    expect_usage_error(&socket, &["host:22", "ADDR:PORT"]);
    let run = keepalive(&["report", "-o", "/nonexistent/x.html", "x.kar"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("/nonexistent/x.html"), "{}", run.stderr);
}

#[test]
fn list_rejects_unknown_values() {
    expect_usage_error(&["list", "--state", "bogus"], &["bogus", "established"]);
    expect_usage_error(&["list", "--sort", "bogus"], &["bogus", "silence"]);
    expect_usage_error(&["list", "--source", "bogus"], &["bogus", "sock-diag"]);
    expect_usage_error(&["list", "--keepalive", "maybe"], &["maybe", "on", "off"]);
    expect_usage_error(&["list", "--watch", "0"], &["--watch"]);
    expect_usage_error(&["list", "--watch", "5ms"], &["--watch", "100ms"]);
    expect_usage_error(&["list", "--no-owner", "-p", "1"], &["--no-owner", "--pid"]);
    expect_usage_error(
        &["list", "-N", "a", "--all-netns"],
        &["--netns", "--all-netns"],
    );
    expect_usage_error(
        &["list", "-N", "no-such-namespace"],
        &["no-such-namespace", "ip netns"],
    );
    expect_usage_error(&["list", "-a", "localhost"], &["localhost"]);
}

#[test]
fn version_is_that_of_the_package() {
    let run = keepalive(&["--version"]);
    assert_eq!(run.code, Some(0));
    assert_eq!(
        run.stdout.trim(),
        format!("keepalive {}", env!("CARGO_PKG_VERSION"))
    );
}

/// Expects a usage error: exit code 2, empty stdout, and these words on stderr.
fn expect_usage_error(arguments: &[&str], words: &[&str]) {
    let run = keepalive(arguments);
    assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
    assert_eq!(run.stdout, "", "{arguments:?}");
    for word in words {
        assert!(
            run.stderr.contains(word),
            "{arguments:?} does not print {word:?}: {}",
            run.stderr
        );
    }
    assert!(!run.stderr.contains("panicked"), "{arguments:?}");
}

#[test]
fn unknown_commands_and_options_are_usage_errors() {
    expect_usage_error(&[], &["Usage:"]);
    expect_usage_error(&["tarce"], &["tarce", "trace", "--help"]);
    expect_usage_error(&["trace", "--jsom"], &["--jsom", "--json"]);
    expect_usage_error(&["trace", "surplus"], &["surplus"]);
}

#[test]
fn bad_values_name_the_option_and_the_remedy() {
    let backend = ["auto", "fentry", "tracepoint"];
    expect_usage_error(&["trace", "--backend", "kprobe"], &backend);
    expect_usage_error(&["doctor", "--backend", ""], &backend);
    for (option, value, remedy) in [
        ("--local-port", "65536", "65535"),
        ("--local-port", "ssh", "--local-port"),
        ("--remote-port", "-1", "-1"),
        ("--remote-port", "0", "1.."),
        ("--address", "10.0.0.0/33", "32"),
        ("--address", "::/129", "128"),
        ("--address", "localhost", "address"),
        ("--address", "", "--address"),
        ("--count", "0", "--count"),
        ("--count", "many", "--count"),
        ("--duration", "5x", "10m"),
        ("--duration", "0", "--duration"),
        ("--duration", "99999999999999999999h", "--duration"),
        ("--ring-bytes", "5000", "power of two"),
        ("--ring-bytes", "0", "4096"),
        ("--ring-bytes", "99999999999", "--ring-bytes"),
        ("--pid", "me", "--pid"),
        ("--pid", "-5", "-5"),
    ] {
        expect_usage_error(&["trace", option, value], &[remedy]);
    }
}

#[test]
fn contradictions_are_usage_errors() {
    expect_usage_error(&["trace", "-4", "-6"], &["--ipv4", "--ipv6"]);
}

#[test]
fn names_that_do_not_exist_are_usage_errors() {
    expect_usage_error(
        &["trace", "-N", "no-such-namespace"],
        &["no-such-namespace"],
    );
    expect_usage_error(
        &["trace", "-N", "/nonexistent/ns/net"],
        &["/nonexistent/ns/net"],
    );
    expect_usage_error(&["trace", "-N", "/nonexistent"], &["/nonexistent"]);
    expect_usage_error(&["trace", "-c", "/no/such/cgroup"], &["cgroup"]);
}

#[test]
fn trace_reports_missing_capabilities() {
    let run = keepalive_as_nobody(&["trace", "-d", "1s"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.stdout, "");
    for word in ["CAP_BPF", "CAP_PERFMON", "root"] {
        assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
    }
    assert_eq!(run.stderr.trim().lines().count(), 1, "{}", run.stderr);
}

#[test]
fn doctor_reports_missing_capabilities() {
    let run = keepalive_as_nobody(&["doctor"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    for word in ["CAP_BPF", "CAP_PERFMON", "refused", "root"] {
        assert!(run.stdout.contains(word), "{word}: {}", run.stdout);
    }
    let run = keepalive_as_nobody(&["doctor", "--json"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("not JSON");
    assert!(report["backend"].is_null(), "{report}");
    let capabilities = report["capabilities"].as_array().expect("no capabilities");
    let missing = capabilities
        .iter()
        .any(|row| row["name"] == "CAP_BPF" && row["held"] == false);
    assert!(missing, "{report}");
}

/// The schema covers every kind of event and is valid JSON.
#[test]
fn schema_describes_every_event() {
    let run = keepalive(&["schema"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).expect("not JSON");
    let text = schema.to_string();
    for word in [
        "start",
        "armed",
        "timer",
        "window_probe",
        "answer",
        "closed",
        "lost",
        "end",
        "probe_sent",
        "keepalive_user_timeout",
        "next_ms",
    ] {
        assert!(text.contains(&format!("\"{word}\"")), "{word} is missing");
    }
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let run = keepalive(&["completions", shell]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(run.stdout.contains("live-answers"), "{shell}");
    }
    expect_usage_error(&["completions", "abacus"], &["abacus", "bash"]);
    for (arguments, words) in [
        (&["man"][..], ["TCP keepalive", "audit"]),
        (&["man", "trace"], ["live\\-answers", "NETNS"]),
    ] {
        let run = keepalive(arguments);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(run.stdout.contains(".TH keepalive"), "{arguments:?}");
        for word in words {
            assert!(run.stdout.contains(word), "{word} in {arguments:?}");
        }
    }
    expect_usage_error(&["man", "women"], &["women", "keepalive help"]);
}

/// Internally 0 means "any"; a user who passes 0 does not mean that.
#[test]
fn zero_is_not_a_valid_filter() {
    for arguments in [
        &["trace", "-N", "0"][..],
        &["trace", "-p", "0"],
        &["list", "-N", "0"],
        &["list", "-p", "0"],
    ] {
        expect_usage_error(arguments, &["0"]);
    }
}

/// `keepalive schema | head -1`
#[test]
fn a_closed_pipe_is_not_an_error() {
    use std::process::Stdio;
    for arguments in [
        &["schema"][..],
        &["doctor"],
        &["doctor", "--json"],
        &["man"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_keepalive"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("keepalive does not start");
        drop(child.stdout.take());
        let run: Run = child.wait_with_output().expect("no output").into();
        // The exit code of `doctor` is its verdict.
        let expected = match arguments[0] {
            "doctor" => keepalive(arguments).code,
            _ => Some(0),
        };
        assert_eq!(run.code, expected, "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stderr, "", "{arguments:?}");
    }
}
