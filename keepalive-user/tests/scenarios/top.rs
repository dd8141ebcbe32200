//! The live screen in a terminal emulator: how it shows a dead peer, how it reacts to keys, and how
//! it restores the terminal.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair};
use crate::kit::sys;
use crate::kit::tracer::PATIENCE;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "top",
        run: top,
    },
    HardCase {
        name: "top_leaves_the_terminal_clean",
        run: leaves_the_terminal_clean,
    },
];

pub const TMUX: &str = "/usr/bin/tmux";

/// A shell in a terminal of its own.
struct Terminal {
    directory: PathBuf,
}

impl Terminal {
    fn open(name: &str) -> Result<Self> {
        let directory = PathBuf::from(format!("/tmp/keepalive-scenario-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory)?;
        let terminal = Self { directory };
        let start = terminal.directory.to_string_lossy().into_owned();
        terminal.tmux(&[
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "-c",
            &start,
            "env PS1='$ ' sh",
        ])?;
        terminal.until("a prompt", |screen| screen.starts_with('$'))?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(TMUX)
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(self.directory.join("tmux"))
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .env_remove("TMUX")
            .output()
            .context("tmux")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {arguments:?}: {stderr}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the screen satisfies a condition.
    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let begin = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            if wanted(&screen) {
                return Ok(screen);
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "no {what} on this screen:\n{screen}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn until_shows(&self, text: &str) -> Result<String> {
        self.until(text, |screen| screen.contains(text))
    }

    fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    fn type_in(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Types a command and presses Enter.
    fn command(&self, line: &str) -> Result<()> {
        self.type_in(line)?;
        self.press("Enter")
    }

    /// Starts `top` on this namespace, and waits for its screen.
    fn start_top(&self, bench: &Bench, prefix: &str) -> Result<()> {
        let netns = Namespace::current()?.inode;
        let (keepalive, backend) = (&bench.keepalive, &bench.backend);
        let top = format!("{keepalive} top --backend {backend} -N {netns}");
        // Typed in two parts, so that the echoed command line does not match the expected output.
        self.command(&format!(
            "clear; echo BE\"\"FORE; {prefix}{top}; echo co\"\"de $?"
        ))?;
        self.until_shows("by urgency").map(drop)
    }

    /// Expects the main screen, a visible cursor, and a shell that echoes.
    fn expect_clean(&self, code: u32) -> Result<()> {
        let screen = self.until_shows(&format!("code {code}"))?;
        ensure!(
            screen.contains("BEFORE"),
            "the previous screen is lost:\n{screen}"
        );
        ensure!(
            !screen.contains("by urgency"),
            "the table is still there:\n{screen}"
        );
        let flags = self.tmux(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"])?;
        ensure!(
            flags.trim() == "1 0",
            "cursor and alternate screen: {flags}"
        );
        self.type_in("echoed")?;
        self.until_shows("$ echoed")?;
        self.press("C-u")
    }

    /// The process that runs in the shell.
    fn child(&self) -> Result<u32> {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"])?;
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        let child = children.split_whitespace().next().context("no child")?;
        child.parse().context(child.to_owned())
    }

    /// Waits until at least this many of 60 probes are unanswered.
    fn until_attempt(&self, ends: &str, least: u32) -> Result<u32> {
        let attempt = |screen: &str| {
            let progress = row(screen, ends)?
                .split_whitespace()
                .find(|word| word.ends_with("/60"))?;
            progress.split('/').next()?.parse::<u32>().ok()
        };
        let what = format!("probe {least}/60");
        let screen = self.until(&what, |screen| attempt(screen) >= Some(least))?;
        attempt(&screen).context("no attempt")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Both ends of a connection, as its row prints them.
fn ends(pair: &Pair) -> Result<String> {
    let (local, peer) = (pair.client.local()?.port(), pair.client.peer()?);
    Ok(format!("{local:>5} {peer}"))
}

/// The row of a connection.
fn row<'a>(screen: &'a str, ends: &str) -> Option<&'a str> {
    screen.lines().find(|line| line.contains(ends))
}

fn top(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pairs = [(); 3].map(|()| Pair::over(LOCALHOST));
    let [dead, dying, alive] = pairs;
    let (dead, dying, alive) = (dead?, dying?, alive?);
    let (dead_row, dying_row, alive_row) = (ends(&dead)?, ends(&dying)?, ends(&alive)?);
    // This connection is older than `top` and must still be listed.
    alive.client.arm(Keepalive::after(7200))?;
    let terminal = Terminal::open("top")?;
    terminal.start_top(bench, "")?;
    terminal.until("older socket", |screen| {
        let row = row(screen, &alive_row);
        row.is_some_and(|row| row.contains("1h59m") && row.contains("seen"))
    })?;
    dead.server.deafen()?;
    dying.server.deafen()?;
    dead.client.arm(Keepalive::EVERY_SECOND.probes(60))?;
    dying.client.arm(Keepalive::EVERY_SECOND.probes(2))?;
    // The probe count grows, and the dead connection is shown as dead.
    let attempt = terminal.until_attempt(&dead_row, 2)?;
    terminal.until_attempt(&dead_row, attempt + 1)?;
    let screen = terminal.until_shows("1 died")?;
    let died = row(&screen, &dying_row).unwrap_or_default();
    ensure!(
        died.contains("ended") && died.contains("keepa…probes"),
        "{screen}"
    );
    let row = row(&screen, &dead_row).unwrap_or_default();
    let owner = format!("/{}", std::process::id());
    ensure!(row.starts_with("ka-") && row.contains(&owner), "{screen}");
    ensure!(
        screen.lines().nth(3) == Some(row),
        "the dying socket is not the first:\n{screen}"
    );
    let port = dead.client.local()?.port().to_string();
    keys(&terminal, &port, &dead_row, &alive_row)?;
    resizes(&terminal)?;
    records(bench, &terminal)?;
    terminal.press("q")?;
    terminal.expect_clean(0)
}

/// The keys that change the table, and those of the explanation.
fn keys(terminal: &Terminal, port: &str, dead: &str, alive: &str) -> Result<()> {
    terminal.press("s")?;
    terminal.until_shows("by next timer")?;
    terminal.press("/")?;
    terminal.type_in(port)?;
    terminal.until_shows(&format!("filter: {port}_"))?;
    terminal.press("Enter")?;
    let screen = terminal.until_shows(&format!("1 with \"{port}\""))?;
    ensure!(row(&screen, dead).is_some(), "{screen}");
    ensure!(row(&screen, alive).is_none(), "{screen}");
    terminal.press("Enter")?;
    let explained = terminal.until_shows("WHAT HAPPENED")?;
    for sentence in [
        "of 60 is out",
        "Dead in",
        "by TCP_KEEPCNT 60",
        "SO_KEEPALIVE is on: TCP_KEEPIDLE 1 s (set on the socket)",
        ", no segment from the peer for",
    ] {
        ensure!(
            explained.contains(sentence),
            "no {sentence:?}:\n{explained}"
        );
    }
    terminal.press("Escape")?;
    terminal.until_shows("1 with")?;
    terminal.press("p")?;
    terminal.until_shows("PAUSED")?;
    terminal.press("p")?;
    terminal.press("/")?;
    terminal.press("Escape")?;
    terminal.until("both again", |screen| {
        row(screen, dead).is_some() && row(screen, alive).is_some()
    })?;
    Ok(())
}

fn resizes(terminal: &Terminal) -> Result<()> {
    let size = |width, height| terminal.tmux(&["resize-window", "-x", width, "-y", height]);
    size("130", "30")?;
    let wide = terminal.until_shows("DEAD IN")?;
    ensure!(wide.contains("LOCAL") && wide.contains("LATEST"), "{wide}");
    size("40", "6")?;
    terminal.until("small table", |screen| {
        screen.contains("OWNER") && !screen.contains("LOCAL")
    })?;
    size("80", "24")?;
    terminal.until_shows("q quit").map(drop)
}

/// A recording that starts in the middle of a session can be replayed without what came before.
fn records(bench: &Bench, terminal: &Terminal) -> Result<()> {
    terminal.press("r")?;
    terminal.until_shows("● REC")?;
    thread::sleep(Duration::from_secs(3));
    terminal.press("r")?;
    let screen = terminal.until_shows("recorded to ")?;
    let (_, name) = screen.split_once("recorded to ").context("no name")?;
    let name = name.split(':').next().unwrap_or_default();
    let path = terminal.directory.join(name);
    let replay = |option: &str| {
        let mut command = Command::new(&bench.keepalive);
        command.arg("replay").arg(&path).arg(option);
        Refused::from(command)
    };
    let whole = replay("--check")?;
    whole.expect_code(0)?;
    ensure!(whole.stdout.contains("whole"), "{}", whole.stdout);
    let replayed = replay("--json")?;
    replayed.expect_code(0)?;
    let lines: Vec<Event> = replayed
        .stdout
        .lines()
        .map(Event::parse)
        .collect::<Result<_>>()?;
    let probe = lines.iter().find(|line| line.is_timer("probe_sent"));
    let probe = probe.with_context(|| format!("no probe in {}", replayed.stdout))?;
    probe.expect("process.pid", std::process::id())?;
    probe.expect("attempts", 60)
}

/// The terminal is restored however `top` ends, and NO_COLOR is respected.
fn leaves_the_terminal_clean(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let pair = Pair::over(LOCALHOST)?;
    pair.server.deafen()?;
    pair.client.arm(Keepalive::EVERY_SECOND.probes(60))?;
    let terminal = Terminal::open("top-clean")?;
    let dead = ends(&pair)?;
    let coloured = || -> Result<bool> {
        terminal.until_attempt(&dead, 2)?;
        let screen = terminal.tmux(&["capture-pane", "-p", "-e"])?;
        Ok(screen.contains("\x1b[38;5;"))
    };
    terminal.start_top(bench, "")?;
    ensure!(coloured()?, "no colour");
    sys::signal(terminal.child()?, Signal::TERM)?;
    terminal.expect_clean(0)?;
    terminal.start_top(bench, "NO_COLOR=1 ")?;
    ensure!(!coloured()?, "colour although NO_COLOR is set");
    terminal.press("C-c")?;
    terminal.expect_clean(0)?;
    terminal.start_top(bench, "")?;
    sys::signal(terminal.child()?, Signal::INT)?;
    terminal.expect_clean(0)
}
