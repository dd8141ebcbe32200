//! Process 1 of a test VM: mounts the usual file systems, loads the given modules, runs one command on the
//! second serial line, prints its exit code, and powers the machine off.
//!
//! tracefs and bpffs are not mounted: keepalive must work without them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    fs::sync,
    mount::{MountFlags, mount},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
    process::{WaitOptions, ioctl_tiocsctty, setsid, wait},
    stdio::stdin,
    system::{RebootCommand, finit_module, reboot},
    termios::{ControlModes, OptionalActions, tcdrain, tcgetattr, tcsetattr},
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
        // Wait until the host has read all output.
        let _ = tcdrain(line);
    }
    sync();
    let _ = reboot(RebootCommand::PowerOff);
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
        mount(kind, at, kind, MountFlags::empty(), None)?;
    }
    let mut modules: Vec<_> = fs::read_dir("/modules")?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    modules.sort();
    modules.iter().try_for_each(|module| load(module))?;
    loopback_up()
}

fn load(module: &Path) -> io::Result<()> {
    Ok(finit_module(File::open(module)?, c"", 0)?)
}

/// RTM_NEWLINK, rtnetlink(7): sets IFF_UP of the first interface, which is `lo`.
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const LOOPBACK: u32 = 1;
    const IFF_UP: u32 = 1;
    // `struct nlmsghdr` (length, type, flags, sequence, port), `struct ifinfomsg` (family and type, index,
    // flags, change mask).
    let mut request = 32_u32.to_ne_bytes().to_vec();
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(REQUEST_AND_ACK.to_ne_bytes());
    for word in [0, 0, 0, LOOPBACK, IFF_UP, IFF_UP] {
        request.extend(u32::to_ne_bytes(word));
    }
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    send(&socket, &request, SendFlags::empty())?;
    // `struct nlmsgerr`: a negative errno after the header, or 0.
    let mut answer = [0; 256];
    recv(&socket, &mut answer, RecvFlags::empty())?;
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(-errno)),
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
        // Needed for job control. Not done otherwise: the end of a session flushes its terminal, and with it
        // the last lines of the output.
        //
        // SAFETY: two system calls between fork and exec, which rustix makes without allocating.
        unsafe {
            command.pre_exec(|| {
                // A shell also works without job control.
                let _ = setsid();
                let _ = ioctl_tiocsctty(stdin());
                Ok(())
            });
        }
    }
    let mut child = command.spawn()?;
    reap(child.id().cast_signed()).or_else(|_| Ok(child.wait()?.code().unwrap_or(128)))
}

/// Waits for the command, and reaps orphans meanwhile, as process 1 must.
fn reap(command: i32) -> io::Result<i32> {
    loop {
        let Some((pid, status)) = wait(WaitOptions::empty())? else {
            continue;
        };
        if pid.as_raw_pid() == command {
            let killed = status
                .terminating_signal()
                .map_or(128, |signal| 128 + signal);
            return Ok(status.exit_status().unwrap_or(killed));
        }
    }
}

/// Disables the translation of line ends, so that the host reads the bytes as written.
fn make_raw(line: &File) -> io::Result<()> {
    let mut settings = tcgetattr(line)?;
    settings.make_raw();
    settings.control_modes |= ControlModes::CLOCAL;
    Ok(tcsetattr(line, OptionalActions::Now, &settings)?)
}
