//! Runs other programs, with progress for those that take over a second.

use std::{
    io::{IsTerminal, Write},
    process::{Command, Output, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs a step: prints its name, counts the seconds on a terminal, and prints the output if it fails.
pub fn step(what: &str, command: &mut Command) -> Result<Output> {
    let start = Instant::now();
    let (done, waiting) = channel::<()>();
    let label = what.to_owned();
    let ticker = std::thread::spawn(move || {
        let terminal = std::io::stderr().is_terminal();
        let mut announced = false;
        while waiting.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            if terminal {
                eprint!("\r[{label}] {} s", start.elapsed().as_secs());
            } else if !announced {
                eprintln!("[{label}] …");
            }
            announced = true;
            let _ = std::io::stderr().flush();
        }
        announced && terminal
    });
    let output = command.stdin(Stdio::null()).output();
    drop(done);
    let cleared = ticker.join().unwrap_or(false);
    let output = output.with_context(|| format!("cannot run {}", line(command)))?;
    let seconds = start.elapsed().as_secs_f32();
    if cleared {
        eprint!("\r");
    }
    if !output.status.success() {
        eprintln!("{}{}", text(&output.stdout), text(&output.stderr));
        bail!("{what}: {} ended with {}", line(command), output.status);
    }
    if seconds >= 1.0 {
        eprintln!("[{what}] {seconds:.1} s");
    }
    Ok(output)
}

/// Runs a program with the terminal of xtask.
pub fn inherit(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// As [`inherit`], and prints the duration.
pub fn timed(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    eprintln!("[{what}] …");
    inherit(command)?;
    eprintln!("[{what}] {:.0} s", start.elapsed().as_secs_f32());
    Ok(())
}

/// The first line that a program prints, if it runs.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let line = text(&output.stdout).lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// The command as typed in a shell.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
