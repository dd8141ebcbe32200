//! A headless browser, controlled over pipes by Chromium's DevTools protocol: JSON objects, each
//! terminated by a zero byte, in both directions.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::{dup2, fcntl_dupfd_cloexec};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::kit::tracer::PATIENCE;

pub const CHROMIUM: &str = "/usr/bin/chromium";

/// A running browser with one page.
pub struct Browser {
    child: Child,
    profile: PathBuf,
    requests: PipeWriter,
    messages: Receiver<Value>,
    session: Option<String>,
    last: u64,
    /// Errors on the page: exceptions, and everything it wrote to its console.
    pub complaints: Vec<String>,
    /// The URL of every request that the page made.
    pub loaded: Vec<String>,
}

impl Browser {
    /// Starts the browser and opens a file.
    pub fn open(page: &Path) -> Result<Self> {
        let profile = PathBuf::from(format!("/tmp/keepalive-browser-{}", std::process::id()));
        let (from_us, requests) = std::io::pipe().context("pipe")?;
        let (answers, to_us) = std::io::pipe().context("pipe")?;
        let child = command(&profile, from_us, to_us)
            .spawn()
            .with_context(|| format!("cannot start {CHROMIUM}"))?;
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut answers = BufReader::new(answers);
            let mut message = Vec::new();
            while matches!(answers.read_until(0, &mut message), Ok(1..)) {
                let parsed = serde_json::from_slice(message.strip_suffix(&[0]).unwrap_or(&message));
                if parsed.is_ok_and(|message| sender.send(message).is_err()) {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            profile,
            requests,
            messages,
            session: None,
            last: 0,
            complaints: Vec::new(),
            loaded: Vec::new(),
        };
        browser.attach()?;
        browser.call(
            "Page.navigate",
            &json!({"url": format!("file://{}", page.display())}),
        )?;
        browser.until("document.readyState === 'complete' && location.protocol === 'file:'")?;
        Ok(browser)
    }

    fn attach(&mut self) -> Result<()> {
        let target = self.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", &attach)?;
        let session = session["sessionId"].as_str().context("no session")?;
        self.session = Some(session.to_owned());
        for domain in ["Runtime", "Log", "Network", "Page"] {
            self.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(())
    }

    /// Sends a request and waits for its answer; events that arrive meanwhile are recorded.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let mut request = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&request)?;
        bytes.push(0);
        self.requests
            .write_all(&bytes)
            .context("the browser has exited")?;
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message.with_context(|| format!("no answer to {method}"))?;
            if message["id"] == self.last {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let details = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded" => {
                self.complaints.push(details.to_string());
            }
            "Network.requestWillBeSent" => {
                let url = details["request"]["url"].as_str();
                self.loaded.push(url.unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }

    /// Evaluates an expression on the page.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let outcome = self.call("Runtime.evaluate", &parameters)?;
        ensure!(
            outcome["exceptionDetails"].is_null(),
            "{expression}: {}",
            outcome["exceptionDetails"]
        );
        Ok(outcome["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(expression)? != json!(true) {
            if Instant::now() > deadline {
                bail!("never true: {expression}");
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    /// Presses a key: its name, and the text it makes.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let text = if key.chars().count() == 1 { key } else { "" };
        let text = if key == "Enter" { "\r" } else { text };
        let down = json!({"type": "keyDown", "key": key, "text": text});
        self.call("Input.dispatchKeyEvent", &down)?;
        self.call(
            "Input.dispatchKeyEvent",
            &json!({"type": "keyUp", "key": key}),
        )?;
        Ok(())
    }

    /// Clicks into the middle of an element.
    pub fn click(&mut self, selector: &str) -> Result<()> {
        let place = self.evaluate(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); \
             it.scrollIntoView({{ block: 'center' }}); const box = it.getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ))?;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }

    /// Emulates the system's theme.
    pub fn prefer(&mut self, theme: &str) -> Result<()> {
        let feature = json!({"name": "prefers-color-scheme", "value": theme});
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({"features": [feature]}),
        )?;
        Ok(())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The helper processes are in the browser's process group.
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}

/// Reads requests from descriptor 3, writes answers to descriptor 4.
fn command(profile: &Path, requests: PipeReader, answers: PipeWriter) -> Command {
    let mut command = Command::new(CHROMIUM);
    command
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--remote-debugging-pipe",
            "--window-size=1400,1000",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let give = move || {
        // First duplicate both above 4, so that dup2 to 3 and 4 does not overwrite them.
        let [from, to] = [requests.as_fd(), answers.as_fd()].map(|fd| fcntl_dupfd_cloexec(fd, 10));
        for (copy, wanted) in [(from?, 3), (to?, 4)] {
            // SAFETY: nothing in this process owns descriptor 3 or 4: it is a forked child that
            // only executes another program, which expects its pipes there.
            let mut wanted = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(wanted) });
            dup2(copy, &mut wanted)?;
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls that are safe after a fork.
    unsafe { command.pre_exec(give) };
    command
}
