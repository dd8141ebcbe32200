//! `keepalive report` of a live trace and of its recording, and the page in a real browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::browser::Browser;
use crate::kit::event::Key;
use crate::kit::net::Namespace;
use crate::kit::socket::{Keepalive, LOCALHOST, Pair, Tcp};
use crate::kit::tracer::{PATIENCE, Tracer};

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "report",
        run: report,
    },
    HardCase {
        name: "report_in_browser",
        run: in_browser,
    },
];

/// A temporary directory, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn create(name: &str) -> Result<Self> {
        let path = PathBuf::from(format!("/tmp/keepalive-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Four connections whose client ends are traced.
struct Story {
    answered: Pair,
    dying: Pair,
    stalled: Pair,
    in_flight: Pair,
}

impl Story {
    fn begin() -> Result<Self> {
        let story = Self {
            answered: Pair::over(LOCALHOST)?,
            dying: Pair::over(LOCALHOST)?,
            stalled: Pair::with_narrow_server()?,
            in_flight: Pair::over(LOCALHOST)?,
        };
        for pair in [&story.answered, &story.stalled, &story.in_flight] {
            pair.client.arm(Keepalive::EVERY_SECOND)?;
        }
        let short = Keepalive::EVERY_SECOND.user_timeout_ms(3000);
        story.dying.client.arm(short)?;
        Ok(story)
    }

    /// Waits until one connection is dead and the others have produced their events.
    fn go_on(&self, tracer: &Tracer, netns: u64) -> Result<()> {
        self.dying.server.deafen()?;
        self.stalled.client.fill()?;
        self.in_flight.server.deafen()?;
        self.in_flight.client.send(b"no ACK comes back")?;
        let await_all = [
            (&self.answered.client, "answer"),
            (&self.stalled.client, "window_probe"),
            (&self.in_flight.client, "timer"),
            (&self.dying.client, "closed"),
        ];
        for (socket, kind) in await_all {
            let key = Key {
                netns,
                local_port: port(socket)?,
                peer_port: match socket.peer() {
                    Ok(peer) => peer.port(),
                    // It has none any more.
                    Err(_) => self.dying.server.local()?.port(),
                },
            };
            tracer
                .wait_for(key, 0, PATIENCE, |event| event.is(kind))
                .with_context(|| format!("no {kind} event of {key:?}"))?;
        }
        // Collects a few more events of each.
        thread::sleep(Duration::from_secs(3));
        Ok(())
    }
}

fn port(socket: &Tcp) -> Result<u16> {
    Ok(socket.local()?.port())
}

/// Traces the connections with `--report`, and creates the same report from the recording.
fn trace_and_report(bench: &Bench, directory: &Directory) -> Result<Story> {
    let namespace = Namespace::create()?;
    let story = Story::begin()?;
    let [live, recording, page] =
        ["live.html", "trace.kar", "report.html"].map(|it| directory.path(it));
    let tracer = bench.trace(&[
        "-N",
        &namespace.inode.to_string(),
        "--audit",
        "--report",
        &live,
        "--record",
        &recording,
    ])?;
    if let Err(error) = story.go_on(&tracer, namespace.inode) {
        let ended = tracer.interrupt()?;
        bail!("{error:#}: {}, {:?}", ended.stderr, ended.lines);
    }
    ensure!(!Path::new(&live).exists(), "the report exists too early");
    let ended = tracer.interrupt()?;
    ensure!(ended.status.success(), "{}: {}", ended.status, ended.stderr);
    let findings = ended.lines.iter().filter(|line| line.is("finding"));
    ensure!(
        findings
            .map(|finding| finding.text("rule"))
            .any(|rule| rule == "count_ignored"),
        "the audit did not report TCP_USER_TIMEOUT: {:?}",
        ended.lines
    );
    make(bench, &[&recording, "-o", &page])?.expect_code(0)?;
    ensure!(
        fs::read(&live)? == fs::read(&page)?,
        "the report of the recording differs from the report of the trace"
    );
    Ok(story)
}

fn make(bench: &Bench, arguments: &[&str]) -> Result<Refused> {
    let mut command = Command::new(&bench.keepalive);
    command.arg("report").args(arguments);
    Refused::from(command)
}

fn report(bench: &Bench) -> Result<()> {
    let directory = Directory::create("report")?;
    let story = trace_and_report(bench, &directory)?;
    let recording = directory.path("trace.kar");
    let picture = directory.path("all.svg");
    make(bench, &[&recording, "-o", &picture])?.expect_code(0)?;
    ensure!(fs::read(&picture)?.starts_with(b"<svg "), "{picture}");
    let one = directory.path("one.svg");
    let dead = format!(":{}", story.dying.server.local()?.port());
    make(bench, &[&recording, "-o", &one, "--socket", &dead])?.expect_code(0)?;
    let svg = fs::read_to_string(&one)?;
    ensure!(
        svg.contains("TCP_USER_TIMEOUT 3 s"),
        "no certificate: {svg}"
    );
    make(
        bench,
        &[&recording, "-o", &one, "--force", "--socket", ":1"],
    )?
    .expect_code(2)?
    .expect_sentence(&["no such socket was recorded"])?;
    for name in ["report.pdf", "report.png"] {
        make(bench, &[&recording, "-o", &directory.path(name)])?
            .expect_code(2)?
            .expect_sentence(&[name, ".html"])?;
    }
    make(bench, &[&recording, "-o", "/nonexistent/report.html"])?
        .expect_code(1)?
        .expect_sentence(&["/nonexistent/report.html"])?;
    Ok(())
}

fn in_browser(bench: &Bench) -> Result<()> {
    let directory = Directory::create("page")?;
    let story = trace_and_report(bench, &directory)?;
    let mut browser = Browser::open(Path::new(&directory.path("report.html")))?;
    first_look(&mut browser)?;
    filters(&mut browser, &story)?;
    sorts(&mut browser)?;
    opens_one(&mut browser)?;
    themes(&mut browser)?;
    ensure!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
    let page = directory.path("report.html");
    ensure!(
        browser.loaded.iter().all(|url| url.ends_with(&page)),
        "loaded {:?}",
        browser.loaded
    );
    Ok(())
}

/// The text of each cell in a column of the table.
fn column(browser: &mut Browser, number: u32) -> Result<Vec<String>> {
    let cells = browser.evaluate(&format!(
        "[...document.querySelectorAll('#rows td:nth-child({number})')].map((it) => it.textContent)"
    ))?;
    serde_json::from_value(cells).context("no column")
}

fn text(browser: &mut Browser, selector: &str) -> Result<String> {
    let text = browser.evaluate(&format!("document.querySelector({selector:?}).textContent"))?;
    text.as_str().map(str::to_owned).context("no text")
}

const OUTCOME: u32 = 1;
const PEER: u32 = 4;
const TIMERS: u32 = 5;

fn first_look(browser: &mut Browser) -> Result<()> {
    let title = text(browser, "h1")?;
    ensure!(
        title.starts_with("1 connection killed by keepalive"),
        "the worst headline is not first: {title}"
    );
    let outcomes = column(browser, OUTCOME)?;
    ensure!(outcomes.len() >= 4, "{outcomes:?}");
    ensure!(outcomes[0].starts_with("killed"), "{outcomes:?}");
    for (shown, least) in [
        ("#lanes svg use", 20),
        (".wide > svg rect", 20),
        (".three svg rect", 6),
        ("#legend li", 5),
        ("#findings summary", 2),
    ] {
        let count = browser.evaluate(&format!("document.querySelectorAll({shown:?}).length"))?;
        ensure!(count.as_u64() >= Some(least), "{shown}: {count}");
    }
    browser.evaluate("document.querySelector('#findings details').open = true")?;
    browser.until("document.querySelectorAll('#findings .finding').length > 0")?;
    // The page does not scroll horizontally.
    let widths = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")?;
    ensure!(widths[0].as_u64() <= widths[1].as_u64(), "{widths}");
    Ok(())
}

fn filters(browser: &mut Browser, story: &Story) -> Result<()> {
    let all = column(browser, PEER)?;
    let port = story.answered.server.local()?.port();
    browser.press("/")?;
    browser.call(
        "Input.insertText",
        &json!({"text": format!("127.0.0.1:{port}")}),
    )?;
    let peers = column(browser, PEER)?;
    ensure!(peers == [format!("127.0.0.1:{port}")], "{peers:?}");
    let counted = text(browser, "#counted")?;
    ensure!(
        counted == format!("1 of {} sockets", all.len()),
        "{counted}"
    );
    browser.call("Input.insertText", &json!({"text": "nobody"}))?;
    ensure!(
        text(browser, "#rows")? == "no such socket",
        "filtered to nothing"
    );
    browser.press("Escape")?;
    ensure!(column(browser, PEER)? == all, "the filter stays");

    browser.click("[data-outcome=timed_out]")?;
    let killed = column(browser, OUTCOME)?;
    ensure!(
        killed == ["killed: probes and user timeout"],
        "the chip does not choose: {killed:?}"
    );
    browser.click("[data-outcome=troubled]")?;
    let both = column(browser, OUTCOME)?;
    ensure!(
        both.len() >= 3 && both[1..].iter().all(|it| it.starts_with("open: ")),
        "two chips are not both: {both:?}"
    );
    browser.click("[data-outcome=troubled]")?;
    browser.click("[data-outcome=timed_out]")?;
    ensure!(column(browser, PEER)? == all, "the chips stay");
    Ok(())
}

fn sorts(browser: &mut Browser) -> Result<()> {
    let head = format!("#columns th:nth-child({TIMERS})");
    for (direction, reverse) in [("descending", true), ("ascending", false)] {
        browser.click(&format!("{head} button"))?;
        let shown = column(browser, TIMERS)?;
        let numbers: Vec<u64> = shown
            .iter()
            .map(|it| it.parse())
            .collect::<Result<_, _>>()?;
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        if reverse {
            sorted.reverse();
        }
        ensure!(
            numbers == sorted && numbers[0] != numbers[numbers.len() - 1],
            "{numbers:?}"
        );
        let order = browser.evaluate(&format!("document.querySelector({head:?}).ariaSort"))?;
        ensure!(order == direction, "{order}");
    }
    browser.click("#columns th:nth-child(1) button")?;
    ensure!(
        column(browser, OUTCOME)?[0].starts_with("killed"),
        "not worst first again"
    );
    Ok(())
}

/// Uses only the keyboard: selects the first row, opens it, zooms in its timeline, and goes back.
fn opens_one(browser: &mut Browser) -> Result<()> {
    browser.evaluate("document.querySelector('#rows tr').focus()")?;
    browser.press("ArrowDown")?;
    browser.press("ArrowUp")?;
    browser.press("Enter")?;
    browser.until("!document.getElementById('one').hidden")?;
    let title = text(browser, "#one h1")?;
    ensure!(
        title.starts_with("TCP_USER_TIMEOUT 3 s ended it"),
        "{title}"
    );
    let words = text(browser, "#log")?;
    for part in [
        "has keepalive: idle 1 s",
        "probe 2 ",
        "TCP_USER_TIMEOUT 3 s ended it",
    ] {
        ensure!(words.contains(part), "{part:?} is not in {words}");
    }
    ensure!(!words.contains('\u{1}'), "a number is missing in {words}");
    ensure!(
        text(browser, "#one .finding")?.contains("TCP_KEEPCNT"),
        "no finding"
    );
    let span = text(browser, "#span")?;
    browser.evaluate("document.getElementById('time').focus()")?;
    browser.press("+")?;
    let closer = text(browser, "#span")?;
    ensure!(
        span.contains(", all") && !closer.contains(", all"),
        "{span}, {closer}"
    );
    browser.press("0")?;
    ensure!(text(browser, "#span")? == span, "0 does not show all");
    browser.click("[data-walk='1']")?;
    browser.until(&format!(
        "document.querySelector('#one h1').textContent !== {title:?}"
    ))?;
    browser.press("Escape")?;
    browser.until("document.getElementById('one').hidden")?;
    Ok(())
}

fn themes(browser: &mut Browser) -> Result<()> {
    let colours = "[document.body, document.querySelector('#rows td')].map((it) => { \
                   const style = getComputedStyle(it); return [style.backgroundColor, style.color]; })";
    let is_dark = |colours: &Value| colours[0][0].as_str().map(|it| it < "rgb(2");
    let mut seen = Vec::new();
    for (theme, dark) in [("light", false), ("dark", true)] {
        browser.prefer(theme)?;
        let shown = browser.evaluate(colours)?;
        ensure!(is_dark(&shown) == Some(dark), "{theme}: {shown}");
        let picture = browser.call("Page.captureScreenshot", &json!({}))?;
        seen.push((shown, picture["data"].as_str().map(str::to_owned)));
    }
    ensure!(seen[0] != seen[1], "both themes are the same");
    // The button overrides the system's theme.
    browser.click("#theme")?;
    let chosen = browser.evaluate(colours)?;
    ensure!(chosen == seen[0].0, "the button does not choose: {chosen}");
    Ok(())
}
