//! A witness: the output of `ss` (iproute2) for the same sockets.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One line of `ss -tanoe`.
#[derive(Debug)]
pub struct Line {
    pub state: String,
    pub receive_queue: u64,
    pub send_queue: u64,
    pub local: String,
    pub peer: String,
    pub timer: Option<Timer>,
    pub uid: u64,
    /// 0 for sockets without a file.
    pub inode: u64,
    pub cookie: String,
}

/// `timer:(keepalive,59sec,0)`.
#[derive(Debug)]
pub struct Timer {
    pub name: String,
    pub left_ms: u64,
    /// The resolution of the printed time.
    pub unit_ms: u64,
    pub retries: u64,
}

/// All TCP sockets of the calling thread's namespace.
pub fn lines() -> Result<Vec<Line>> {
    let output = Command::new("ss").args(["-tanoeH"]).output();
    let output = output.context("cannot run ss (package iproute2)")?;
    ensure!(output.status.success(), "ss: {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| parse(line).with_context(|| format!("line of ss: {line}")))
        .collect()
}

/// The processes that `ss` prints for each socket with a file in the calling thread's namespace:
/// local end, peer, process ids.
pub fn owners() -> Result<Vec<(String, String, BTreeSet<u64>)>> {
    let output = Command::new("ss").args(["-tnopH"]).output();
    let output = output.context("cannot run ss (package iproute2)")?;
    ensure!(output.status.success(), "ss: {}", output.status);
    let owners = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(3);
            let (local, peer) = (words.next()?, words.next()?);
            // `users:(("a",pid=1,fd=3),("b",pid=2,fd=3))`
            let (_, users) = line.split_once("users:(")?;
            let pids = users.split("pid=").skip(1);
            let pids = pids.filter_map(|rest| rest.split(',').next()?.parse().ok());
            Some((local.to_owned(), peer.to_owned(), pids.collect()))
        })
        .collect();
    Ok(owners)
}

fn parse(line: &str) -> Result<Line> {
    let mut words = line.split_whitespace();
    let mut next = || words.next().context("too few columns");
    let (state, receive, send, local, peer) = (next()?, next()?, next()?, next()?, next()?);
    let mut parsed = Line {
        state: state.to_owned(),
        receive_queue: receive.parse()?,
        send_queue: send.parse()?,
        local: local.to_owned(),
        peer: peer.to_owned(),
        timer: None,
        uid: 0,
        inode: 0,
        cookie: String::new(),
    };
    for word in words {
        let Some((name, value)) = word.split_once(':') else {
            continue;
        };
        match name {
            "timer" => parsed.timer = Some(timer(value)?),
            "uid" => parsed.uid = value.parse()?,
            "ino" => parsed.inode = value.parse()?,
            "sk" => parsed.cookie = value.to_owned(),
            _ => {}
        }
    }
    Ok(parsed)
}

fn timer(text: &str) -> Result<Timer> {
    let inner = text.trim_start_matches('(').trim_end_matches(')');
    let [name, left, retries] = inner.split(',').collect::<Vec<_>>()[..] else {
        anyhow::bail!("unexpected timer format: {text}");
    };
    let (left_ms, unit_ms) = duration(left)?;
    Ok(Timer {
        name: name.to_owned(),
        left_ms,
        unit_ms,
        retries: retries.parse()?,
    })
}

/// `1min59sec`, `59sec`, `7.9sec`, `200ms`; before iproute2 6.11 also `7.888ms` for 7.9 s.
fn duration(text: &str) -> Result<(u64, u64)> {
    if let Some((minutes, seconds)) = text.split_once("min") {
        let seconds = seconds.trim_end_matches("sec");
        let seconds: u64 = if seconds.is_empty() {
            0
        } else {
            seconds.parse()?
        };
        return Ok((minutes.parse::<u64>()? * 60_000 + seconds * 1000, 1000));
    }
    if let Some(seconds) = text.strip_suffix("sec") {
        return Ok(match seconds.split_once('.') {
            Some(_) => ((seconds.parse::<f64>()? * 1000.0) as u64, 1),
            None => (seconds.parse::<u64>()? * 1000, 1000),
        });
    }
    let number = text.strip_suffix("ms").context("unexpected time format")?;
    Ok(match number.split_once('.') {
        Some((seconds, millis)) => (seconds.parse::<u64>()? * 1000 + millis.parse::<u64>()?, 1),
        None => (number.parse()?, 1),
    })
}
