//! One program: before, remedies, after.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use super::remedy::Remedy;
use crate::harness::bench::{Bench, Refused};
use crate::kit::event::Event;
use crate::kit::link::{FAR_ADDRESS, Link, NEAR_ADDRESS};
use crate::kit::net::Namespace;
use crate::kit::tracer::PATIENCE;

/// The port of the program's own listeners.
pub const PORT: u16 = 8080;
/// The port of the listener at the far end.
pub const FAR_PORT: u16 = 9090;
pub const NOBODY: u32 = 65534;

/// A program whose configuration has slots for what remedies say.
pub struct Program {
    pub name: &'static str,
    pub slots: &'static [Slot],
    /// Remedies must set sysctls too.
    pub sysctls: bool,
    /// Creates what the program needs besides its configuration.
    pub prepare: fn(&Place) -> Result<()>,
    /// The file and its text.
    pub configuration: fn(&Place, &Values) -> (String, String),
    /// The program's own check of its configuration.
    pub check: Option<fn(&Place, &Values) -> Command>,
    pub start: fn(&Place, &Values) -> Command,
    /// Ports that the far end connects to, and what it sends there.
    pub connects_to: &'static [(u16, &'static [u8])],
    /// How many connections the program opens to the far end.
    pub opens: usize,
}

/// A place in a configuration.
pub struct Slot {
    pub name: &'static str,
    /// A part of the place that remedies name.
    pub place: &'static str,
    /// What stands there before.
    pub before: &'static str,
    /// Between two lines.
    pub separator: &'static str,
}

/// The text of each slot.
pub struct Values(BTreeMap<&'static str, String>);

impl Values {
    pub fn of(&self, slot: &str) -> &str {
        self.0.get(slot).map_or("", String::as_str)
    }
}

/// The program's own directory; it is removed on drop.
pub struct Place {
    pub directory: PathBuf,
}

impl Place {
    fn create(name: &str) -> Result<Self> {
        let directory = PathBuf::from(format!("/tmp/keepalive-scenario-remedies-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        chown(&directory, Some(NOBODY), Some(NOBODY))?;
        Ok(Self { directory })
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A command with these arguments.
pub fn command<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The same, run by an unprivileged user.
pub fn unprivileged<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = command(program, arguments);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command
}

/// Runs a command to its end; it must succeed.
pub fn succeed(mut command: Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

pub fn nothing(_: &Place) -> Result<()> {
    Ok(())
}

/// Applies the remedies of the first audit, and expects the second one to find nothing.
pub fn apply(bench: &Bench, program: &Program) -> Result<()> {
    let _namespace = Namespace::create()?;
    let link = Link::create()?;
    let place = Place::create(program.name)?;
    (program.prepare)(&place)?;
    let far = Far::create(link)?;
    let slots = program.slots.iter();
    let before = slots.map(|slot| (slot.name, slot.before.to_owned()));
    let mut values = Values(before.collect());
    let remedies = {
        let _running = Running::start(program, &place, &values, &far).context("before")?;
        until("remedies for every slot", || {
            let remedies = remedies(bench)?;
            let is_complete = covers(program, &remedies);
            ensure!(is_complete, "{remedies:?}");
            Ok(remedies)
        })
        .context("before")?
    };
    for remedy in &remedies {
        write(program, remedy, &mut values)?;
    }
    let _running = Running::start(program, &place, &values, &far).context("after")?;
    until("no findings", || {
        let findings = findings(bench)?;
        ensure!(findings.is_empty(), "{findings:?} with {:?}", values.0);
        Ok(())
    })
    .context("after")
}

/// Whether remedies name every slot, and sysctls if they must.
fn covers(program: &Program, remedies: &[Remedy]) -> bool {
    let is_named = |slot: &Slot| {
        let named = |remedy: &&Remedy| remedy.place.contains(slot.place);
        remedies.iter().any(|remedy| named(&remedy))
    };
    let has_command = remedies.iter().any(|remedy| remedy.command.is_some());
    program.slots.iter().all(is_named) && has_command == program.sysctls
}

/// Writes what a remedy says into its slot, and runs its command.
fn write(program: &Program, remedy: &Remedy, values: &mut Values) -> Result<()> {
    if let Some(command) = &remedy.command {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]);
        succeed(shell)?;
    }
    if remedy.lines.is_empty() {
        return Ok(());
    }
    let slot = program
        .slots
        .iter()
        .find(|slot| remedy.place.contains(slot.place))
        .with_context(|| format!("no slot for {remedy:?}"))?;
    values
        .0
        .insert(slot.name, remedy.lines.join(slot.separator));
    Ok(())
}

fn remedies(bench: &Bench) -> Result<Vec<Remedy>> {
    let findings = findings(bench)?;
    let texts = findings.iter().map(|finding| finding.text("remedy"));
    Ok(texts.map(Remedy::parse).collect())
}

/// What the audit finds in the namespace of the program. Sysctls that remedies set differ from the host's.
fn findings(bench: &Bench) -> Result<Vec<Event>> {
    let mut command = Command::new(&bench.keepalive);
    command
        .args(["audit", "--json", "--middlebox", "aws-nlb"])
        .args(["--ignore", "namespace_sysctls"])
        .stdin(Stdio::null());
    let run = Refused::from(command)?;
    run.expect_code(0)?;
    let lines = run.stdout.lines().map(Event::parse);
    let mut lines: Vec<Event> = lines.collect::<Result<_>>()?;
    let end = lines.pop().context("no output")?;
    ensure!(end.number("sockets")? > 0, "no sockets: {end}");
    Ok(lines)
}

/// Repeats until it succeeds.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if begin.elapsed() > PATIENCE => {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The running program with its connections.
struct Running {
    // Dropped first: closed connections let the program end.
    _connections: Vec<TcpStream>,
    _process: Process,
}

impl Running {
    fn start(program: &Program, place: &Place, values: &Values, far: &Far) -> Result<Self> {
        let (file, text) = (program.configuration)(place, values);
        fs::write(place.directory.join(file), text)?;
        if let Some(check) = program.check {
            succeed(check(place, values))?;
        }
        let process = Process::start(&mut (program.start)(place, values), place)?;
        let mut connections = Vec::new();
        for (port, request) in program.connects_to {
            let to = SocketAddr::new(NEAR_ADDRESS, *port);
            let mut stream = until("a listener", || {
                far.link
                    .at_far(|| TcpStream::connect(to).with_context(|| to.to_string()))
            })
            .with_context(|| log(place))?;
            stream.write_all(request)?;
            connections.push(stream);
        }
        for _ in 0..program.opens {
            let accepted = until("a connection to the far end", || {
                Ok(far.listener.accept()?.0)
            });
            connections.push(accepted.with_context(|| log(place))?);
        }
        Ok(Self {
            _connections: connections,
            _process: process,
        })
    }
}

/// The other end: it connects to the program, and listens for it.
struct Far {
    link: Link,
    listener: TcpListener,
}

impl Far {
    fn create(link: Link) -> Result<Self> {
        let at = SocketAddr::new(FAR_ADDRESS, FAR_PORT);
        let listener = link.at_far(|| TcpListener::bind(at).with_context(|| at.to_string()))?;
        // `accept` does not wait.
        listener.set_nonblocking(true)?;
        Ok(Self { link, listener })
    }
}

/// What the program wrote.
fn log(place: &Place) -> String {
    let text = fs::read_to_string(place.path(LOG)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    format!("its log, last line first: {lines:?}")
}

/// In the program's directory.
const LOG: &str = "output";

/// A program and its children: one process group, which ends on drop.
struct Process {
    child: Child,
}

impl Process {
    fn start(command: &mut Command, place: &Place) -> Result<Self> {
        let output = fs::File::create(place.path(LOG))?;
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
