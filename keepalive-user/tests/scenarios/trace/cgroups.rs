//! Cgroups: a socket belongs to the cgroup in which it was created; any cgroup name is printed
//! safely.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::harness::bench::{Bench, HardCase};
use crate::kit::event::Event;
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};

pub const CASES: &[HardCase] = &[HardCase {
    name: "cgroup_filter",
    run: cgroup_filter,
}];

/// The name of a cgroup may contain control characters; they must not reach the terminal.
const NAME: &str = "ka-\x1b[31m\x07re\u{85}d";

/// Where cgroup2 is mounted.
pub fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let at = mount.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then(|| PathBuf::from(at))
    })
}

/// A cgroup that is removed on drop.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(path: PathBuf) -> Result<Self> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("making {}", path.display()))
            }
            _ => Ok(Self(path)),
        }
    }

    /// A connection made while this process is in the cgroup.
    fn connection(&self, home: &Path) -> Result<Pair> {
        enter(&self.0)?;
        let pair = Pair::over(LOCALHOST);
        enter(home)?;
        pair
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("scenarios: {} stays: {error}", self.0.display());
        }
    }
}

/// Moves this process into a cgroup.
fn enter(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("entering {}", cgroup.display()))
}

/// Of the sockets of one process `-c` shows only the one created in that cgroup, and not one
/// created in a cgroup below it.
fn cgroup_filter(bench: &Bench) -> Result<()> {
    let root = mounted().context("no cgroup2")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let home = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let home = root.join(home.context("in no cgroup")?);
    let _namespace = Namespace::create()?;
    let outside = Pair::over(LOCALHOST)?;
    let cgroup = Cgroup::create(root.join(NAME))?;
    let below = Cgroup::create(cgroup.0.join("below"))?;
    let inside = cgroup.connection(&home)?;
    let deeper = below.connection(&home)?;
    for format in [&["--json"][..], &[]] {
        let path = format!("/{NAME}");
        let arguments = [&["-c", &path, "-d", "4s"], format].concat();
        let pairs = [&outside, &inside, &deeper];
        let output = thread::scope(|scope| {
            let output = scope.spawn(|| bench.output(&arguments));
            thread::sleep(Duration::from_millis(1000));
            let armed = pairs
                .iter()
                .try_for_each(|pair| pair.client.arm(Keepalive::EVERY_SECOND));
            let output = output.join().ok().context("the thread panicked")?;
            armed.and(output)
        })?;
        output.expect_code(0)?;
        let control = output
            .stdout
            .chars()
            .find(|&character| character.is_control() && character != '\n');
        ensure!(control.is_none(), "{control:?} in {:?}", output.stdout);
        if format.is_empty() {
            continue;
        }
        let events: Vec<Event> = output
            .stdout
            .lines()
            .map(Event::parse)
            .collect::<Result<_>>()?;
        let ours = inside.client.local()?.port();
        let timers: Vec<&Event> = events.iter().filter(|event| event.is("timer")).collect();
        ensure!(!timers.is_empty(), "no timer in {}", output.stdout);
        for event in timers {
            event.expect("socket.local.port", ours)?;
            event.expect("cgroup.path", path.as_str())?;
        }
    }
    Ok(())
}
