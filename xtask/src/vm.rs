//! `cargo xtask vm`: runs a command or a shell on a kernel of the matrix in QEMU.
//!
//! The guest has two serial lines: the kernel's console goes to a log file, the command's output
//! goes to standard output unchanged, so that no kernel message splits a line.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build, initramfs,
    kernels::Kernel,
    packages::{self, Tool},
    paths,
};

#[derive(Args)]
pub struct Arguments {
    /// Kernel of the matrix: 5.10, 6.1, 6.12, 6.12-rt, 6.12-trixie, 7
    kernel: String,
    /// Command to run in it, such as `keepalive doctor`; without one, a shell
    #[arg(last = true)]
    command: Vec<String>,
    /// QEMU accelerator; software emulation works everywhere
    #[arg(long, default_value = ACCEL)]
    accel: String,
    /// Kill the guest after this many seconds (not for a shell)
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

/// Software emulation, both CPUs in one thread: with one thread per CPU, a CPU sometimes executes the
/// breakpoint that the kernel has just patched away (attaching a trampoline), and the guest dies.
pub const ACCEL: &str = "tcg,thread=single";

const QEMU: &[Tool] = &[
    Tool {
        path: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Tool {
        path: "xz",
        package: "xz-utils",
    },
    Tool {
        path: "zstd",
        package: "zstd",
    },
    Tool {
        path: "ss",
        package: "iproute2",
    },
    Tool {
        path: "/usr/share/keyrings/debian-archive-keyring.gpg",
        package: "debian-archive-keyring",
    },
];
const BUSYBOX: &[Tool] = &[Tool {
    path: "/bin/busybox",
    package: "busybox-static",
}];

/// Installs what booting a VM needs on the host.
pub fn ensure_qemu() -> Result<()> {
    packages::ensure(QEMU)
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure_qemu()?;
    let kernel = Kernel::of(&arguments.kernel)?;
    let keepalive = build::release()?;
    let init = build::vm_init()?;
    let mut binaries = vec![("keepalive", keepalive.as_path())];
    let interactive = arguments.command.is_empty();
    if interactive {
        packages::ensure(BUSYBOX)?;
        binaries.push(("busybox", Path::new("/bin/busybox")));
    }
    let command = if interactive {
        [
            "busybox",
            "sh",
            "-c",
            "busybox --install -s /bin; exec sh -l",
        ]
        .map(str::to_owned)
        .to_vec()
    } else {
        arguments.command.clone()
    };
    let guest = Guest {
        name: kernel.label,
        kernel,
        accel: &arguments.accel,
        memory_mib: MEMORY_MIB,
        init: &init,
        binaries: &binaries,
        command: &command,
    };
    if interactive {
        return guest.shell();
    }
    let code = guest.watch(Duration::from_secs(arguments.timeout), |line| {
        println!("{line}");
    })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Memory of the guest, sufficient for every scenario.
pub const MEMORY_MIB: u32 = 1024;

/// The description of a virtual machine.
pub struct Guest<'a> {
    /// Names its files in `target/vm`, so that several can run at once.
    pub name: &'a str,
    pub kernel: &'a Kernel,
    pub accel: &'a str,
    pub memory_mib: u32,
    pub init: &'a Path,
    /// Name below /bin, file on the host.
    pub binaries: &'a [(&'a str, &'a Path)],
    pub command: &'a [String],
}

impl Guest<'_> {
    /// Boots, passes every line of the command's output to `each`, and returns its exit code.
    ///
    /// # Errors
    /// If the guest panics, hangs past the timeout, or ends without printing the exit code; the
    /// console is in `target/vm/NAME.log`.
    pub fn watch(&self, timeout: Duration, mut each: impl FnMut(&str)) -> Result<i32> {
        let (mut command, log) = self.qemu()?;
        let mut qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run QEMU")?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let watchdog = Watchdog::start(qemu, timeout);
        let mut code = None;
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line?)
                .trim_end_matches('\r')
                .to_owned();
            match line.strip_prefix("vm-init: exit ") {
                Some(text) => code = text.trim().parse().ok(),
                None => each(&line),
            }
        }
        let timed_out = watchdog.stop();
        let console = fs::read_to_string(&log).unwrap_or_default();
        match code {
            Some(code) => Ok(code),
            None if timed_out => {
                bail!(
                    "{}: no end after {} s; see {}",
                    self.kernel.label,
                    timeout.as_secs(),
                    log.display()
                )
            }
            None => bail!(
                "{}: the guest died: {}; see {}",
                self.kernel.label,
                last_words(&console),
                log.display()
            ),
        }
    }

    fn shell(&self) -> Result<ExitCode> {
        let (mut command, log) = self.qemu()?;
        eprintln!("[vm] kernel messages go to {}; `exit` ends", log.display());
        let status = command.status().context("cannot run QEMU")?;
        Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The QEMU command, and the log file of the kernel's console.
    fn qemu(&self) -> Result<(Command, PathBuf)> {
        let fetched = self.kernel.fetch()?;
        let directory = paths::target("vm");
        fs::create_dir_all(&directory).context("cannot make target/vm")?;
        let archive = directory.join(format!("{}.cpio", self.name));
        let contents = initramfs::build(self.init, self.binaries, &fetched.modules, self.command)?;
        fs::write(&archive, contents)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        let log = directory.join(format!("{}.log", self.name));
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        eprintln!("[vm] {} ({})", self.name, fetched.release);
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            self.accel,
            "-cpu",
            self.kernel.cpu,
            "-smp",
            "2",
            "-m",
            &self.memory_mib.to_string(),
        ])
        .args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .args([
            "-serial",
            &format!("file:{}", log.display()),
            "-serial",
            "stdio",
        ])
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .arg("-kernel")
        .arg(&fetched.image)
        .arg("-initrd")
        .arg(&archive);
        Ok((qemu, log))
    }
}

/// The line with the reason of a kernel's panic.
fn last_words(console: &str) -> String {
    let marks = ["Kernel panic", "BUG:", "Oops", "double fault"];
    let telling = console
        .lines()
        .find(|line| marks.iter().any(|mark| line.contains(mark)));
    telling
        .or_else(|| console.lines().last())
        .unwrap_or("no kernel message")
        .trim()
        .to_owned()
}

/// Kills QEMU after the timeout.
struct Watchdog {
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(mut qemu: Child, timeout: Duration) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let deadline = Instant::now() + timeout;
            let mut timed_out = false;
            while qemu.try_wait().is_ok_and(|status| status.is_none()) {
                timed_out = Instant::now() > deadline;
                if timed_out || stop.load(Ordering::Relaxed) {
                    let _ = qemu.kill();
                    let _ = qemu.wait();
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
            timed_out
        });
        Self { ended, thread }
    }

    /// Whether the timeout has expired.
    fn stop(self) -> bool {
        // The output has ended: QEMU exits by itself, or is killed.
        thread::sleep(Duration::from_millis(100));
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_kernels_last_words() {
        let console = "[ 1.0] hello\n[ 2.0] Kernel panic - not syncing: x\n[ 2.1] ---[ end ]---\n";
        assert_eq!(last_words(console), "[ 2.0] Kernel panic - not syncing: x");
        assert_eq!(last_words("a\nb\n"), "b");
        assert_eq!(last_words(""), "no kernel message");
    }
}
