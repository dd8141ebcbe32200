//! Process 1 of a test VM: mounts what every machine has, loads the modules it was given, runs one
//! command on the second serial line, says how it ended, and switches the machine off.
//!
//! tracefs and bpffs are left unmounted: the tool must do without.

use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

const LINE: &str = "/dev/ttyS1";

fn main() {
    let outcome = prepare().and_then(|()| execute());
    let code = outcome.unwrap_or_else(|error| {
        eprintln!("vm-init: {error}");
        127
    });
    if let Ok(mut line) = OpenOptions::new().write(true).open(LINE) {
        let _ = writeln!(line, "\nvm-init: exit {code}");
        // SAFETY: a plain system call on an open file; waits until the host has it all.
        unsafe { libc::tcdrain(line.as_raw_fd()) };
    }
    // SAFETY: plain system calls; there is nothing left to lose.
    unsafe {
        libc::sync();
        libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF);
    }
}

fn prepare() -> io::Result<()> {
    for (kind, at) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        (c"devtmpfs", c"/dev"),
        (c"tmpfs", c"/tmp"),
        (c"tmpfs", c"/run"),
        (c"cgroup2", c"/sys/fs/cgroup"),
    ] {
        mount(kind, at)?;
    }
    let mut modules: Vec<_> = fs::read_dir("/modules")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    modules.iter().try_for_each(|module| load(module))?;
    loopback_up()
}

fn mount(kind: &CStr, at: &CStr) -> io::Result<()> {
    // SAFETY: three C strings that outlive the call, and no data.
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    check(result)
}

fn load(module: &Path) -> io::Result<()> {
    let file = File::open(module)?;
    // SAFETY: an open file, an empty C string and no flags.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    check(if result == 0 { 0 } else { -1 })
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: the socket is owned by `socket`; `request` is zeroed, named and flagged before use.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(fd.min(0))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        ))
    }
}

/// Runs `/etc/command` (arguments separated by NUL) with the line as its terminal.
fn execute() -> io::Result<i32> {
    let text = fs::read_to_string("/etc/command")?;
    let mut words = text.split('\0');
    let program = words.next().unwrap_or_default();
    let line = OpenOptions::new().read(true).write(true).open(LINE)?;
    let interactive = program == "busybox";
    if !interactive {
        make_raw(&line)?;
    }
    let mut command = Command::new(program);
    command
        .args(words)
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .env("TERM", "vt100")
        .stdin(Stdio::from(line.try_clone()?))
        .stdout(Stdio::from(line.try_clone()?))
        .stderr(Stdio::from(line));
    if interactive {
        // For job control. Not otherwise: the end of a session flushes its terminal, and with it
        // the last lines of the output.
        //
        // SAFETY: only async-signal-safe system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
    }
    let mut child = command.spawn()?;
    reap(child.id().cast_signed()).or_else(|_| Ok(child.wait()?.code().unwrap_or(128)))
}

/// Waits for the command, burying orphans meanwhile, as process 1 must.
fn reap(command: libc::pid_t) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a local.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == command {
            let exited = libc::WIFEXITED(status);
            return Ok(if exited {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            });
        }
        check(pid.min(0))?;
    }
}

/// No translation of line ends: what is written is what the host reads.
fn make_raw(line: &File) -> io::Result<()> {
    // SAFETY: `settings` is filled in by tcgetattr before it is used.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        check(libc::tcgetattr(line.as_raw_fd(), &raw mut settings))?;
        libc::cfmakeraw(&raw mut settings);
        settings.c_cflag |= libc::CLOCAL;
        check(libc::tcsetattr(
            line.as_raw_fd(),
            libc::TCSANOW,
            &raw const settings,
        ))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
