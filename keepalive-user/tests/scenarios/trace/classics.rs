//! The classic experiments with servers from the distribution: what they really set, and which side
//! ends the connection.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;

use crate::explain::command;
use crate::harness::bench::{Bench, HardCase, Refused};
use crate::kit::event::Event;
use crate::kit::link::{FAR, Link, NEAR_ADDRESS};
use crate::kit::listing::{Listing, sources};
use crate::kit::net::{self, Namespace};
use crate::kit::process::Running;
use crate::kit::socket::{LOCALHOST, Tcp};
use crate::kit::tracer::PATIENCE;

pub const CASES: &[HardCase] = &[
    HardCase {
        name: "classic_apache",
        run: apache,
    },
    HardCase {
        name: "classic_redis",
        run: redis,
    },
    HardCase {
        name: "classic_postgresql",
        run: postgresql,
    },
];

pub const APACHE: &str = "/usr/sbin/apache2";
pub const REDIS: &str = "/usr/bin/redis-server";
pub const POSTGRESQL: &str = "/usr/lib/postgresql/15/bin/postgres";

const PORT: u16 = 8080;
const NOBODY: u32 = 65534;

/// A server in the calling thread's namespace; it is killed on drop.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Result<Self> {
        let server = Self(
            command
                // Apache signals its whole process group when it ends.
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot start {command:?}"))?,
        );
        let begin = Instant::now();
        while TcpStream::connect((LOCALHOST, PORT)).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "{command:?} does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its child processes end with it.
        if crate::kit::sys::signal(self.0.id(), Signal::TERM).is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// Creates an empty directory for this scenario.
fn fresh(directory: &str) -> Result<()> {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).with_context(|| directory.to_owned())
}

fn connect(to: IpAddr) -> Result<Tcp> {
    let client = Tcp::new(to)?;
    client.connect(SocketAddr::new(to, PORT))?;
    Ok(client)
}

/// A client sends one request and stays idle. The server's HTTP timeout closes the connection,
/// either after the keepalive timer has run twice, or before its first run. Keepalive is not the
/// cause.
fn apache(bench: &Bench) -> Result<()> {
    for (keepalive_s, http_s) in [(3, 7), (10, 3)] {
        let _namespace = Namespace::create()?;
        net::sysctl("tcp_keepalive_time", keepalive_s)?;
        net::sysctl("tcp_keepalive_intvl", keepalive_s)?;
        let _server = start_apache(http_s)?;
        let netns = Namespace::current()?.inode.to_string();
        let tracer = bench.trace(&["-N", &netns, "-L", &PORT.to_string()])?;
        let text_trace = Running::start(
            bench
                .command(&["-N", &netns, "-L", &PORT.to_string(), "-d", "10s"])
                .stdout(Stdio::piped()),
        )?;
        // Waits until the trace is attached.
        thread::sleep(Duration::from_millis(800));
        let mut client = TcpStream::connect((LOCALHOST, PORT))?;
        client.write_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = [0; 4096];
        let length = client.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        ensure!(answer.contains("200 OK"), "{answer}");
        let explained = explain(bench, client.local_addr()?.port())?;
        explained.expect("outlook", "not_idle")?;
        explained.expect("socket.keepalive.time_origin", "sysctl")?;
        let peer = client.local_addr()?.port();
        ensure!(client.read(&mut [0; 1])? == 0, "the server sent more");
        let of_client = |event: &Event| event.number("socket.peer.port").ok() == Some(peer.into());
        drop(client);
        let closed = tracer
            .wait_for_line(PATIENCE, |event| event.is("closed") && of_client(event))
            .context("the server's end is not reported")?;
        closed.expect("cause", "local_close")?;
        closed.expect("process.comm", "apache2")?;
        closed.expect("error", json!(null))?;
        let (_, text, _) = text_trace.finish()?;
        let sentence = if keepalive_s < http_s {
            closed.expect_within("timers", 2..=3)?;
            closed.expect_within("lifetime_ms", 7000..=9000)?;
            "closed by its owner first; the peer answered"
        } else {
            closed.expect("timers", 0)?;
            closed.expect_within("lifetime_ms", 3000..=5000)?;
            "due after 10 s without a segment from the peer: therefore no probe was sent"
        };
        for part in [sentence, "not caused by keepalive"] {
            ensure!(text.contains(part), "{part:?} is not in {text}");
        }
        owner_closes(bench, http_s)?;
        tracer.interrupt()?.end()?;
    }
    Ok(())
}

/// `explain --watch` observes that the owner closes the connection; it then reports that the socket
/// no longer exists.
fn owner_closes(bench: &Bench, http_s: u64) -> Result<()> {
    let client = TcpStream::connect((LOCALHOST, PORT))?;
    (&client).write_all(b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let (server, peer) = (client.peer_addr()?, client.local_addr()?);
    let target = format!("{server}-{peer}");
    let watched = format!("{}s", http_s + 3);
    let run = Refused::from(command(bench, &["--json", "--watch", &watched, &target]))?;
    run.expect_code(0)?;
    ensure!(
        run.stderr.contains("ended while it was watched"),
        "{}",
        run.stderr
    );
    let explained = Event::parse(run.stdout.trim())?;
    explained.expect("owner_closes.closed", 1)?;
    let seconds = http_s * 1000;
    explained.expect_within("owner_closes.idle_ms.least", seconds - 500..=seconds + 2000)?;
    Ok(())
}

fn start_apache(http_s: u64) -> Result<Server> {
    let directory = "/tmp/keepalive-scenario-apache";
    fresh(directory)?;
    fs::write(format!("{directory}/file"), "hello\n")?;
    let configuration = format!(
        "ServerRoot /usr/lib/apache2\n\
         LoadModule mpm_prefork_module modules/mod_mpm_prefork.so\n\
         LoadModule authz_core_module modules/mod_authz_core.so\n\
         ServerName localhost\nListen {LOCALHOST}:{PORT}\nUser nobody\nGroup nogroup\n\
         DefaultRuntimeDir {directory}\nPidFile {directory}/pid\nErrorLog {directory}/error\n\
         DocumentRoot {directory}\nStartServers 1\nKeepAlive On\nKeepAliveTimeout {http_s}\n"
    );
    let file = format!("{directory}/configuration");
    fs::write(&file, configuration)?;
    Server::start(Command::new(APACHE).args(["-f", &file, "-D", "FOREGROUND"]))
}

/// What `explain` prints for the server's end of a connection.
fn explain(bench: &Bench, peer: u16) -> Result<Event> {
    let target = format!("{LOCALHOST}:{PORT}-{LOCALHOST}:{peer}");
    let run = Refused::from(command(bench, &["--json", &target]))?;
    run.expect_code(0)?;
    Event::parse(run.stdout.trim())
}

/// The row of the server's end.
fn server_end(bench: &Bench, client: &Tcp) -> Result<Event> {
    for source in sources(bench) {
        let listing = Listing::of(bench, source, &[])?;
        let row = listing.between(client.peer()?, client.local()?)?;
        if !row.get("keepalive").is_null() {
            return Ok(row.clone());
        }
    }
    bail!("no source reports the settings")
}

/// `tcp-keepalive 3` is an idle time of 3 s, an interval of a third of it, and three probes.
fn redis(bench: &Bench) -> Result<()> {
    let netns = Namespace::create()?.inode.to_string();
    let link = Link::create()?;
    let _server = Server::start(Command::new(REDIS).args([
        "--bind",
        &NEAR_ADDRESS.to_string(),
        "127.0.0.1",
        "--protected-mode",
        "no",
        "--port",
        &PORT.to_string(),
        "--tcp-keepalive",
        "3",
        "--save",
        "",
        "--dir",
        "/tmp",
    ]))?;
    let tracer = bench.trace(&["-N", &netns, "-L", &PORT.to_string()])?;
    let client = link.at_far(|| connect(NEAR_ADDRESS))?;
    client.send(b"PING\r\n")?;
    client.receive(b"+PONG\r\n".len())?;
    let row = server_end(bench, &client)?;
    let expected = json!({
        "enabled": true, "time_ms": 3000, "time_origin": "socket", "interval_ms": 1000,
        "interval_origin": "socket", "probes": 3, "probes_origin": "socket", "user_timeout_ms": 0,
    });
    row.expect("keepalive", expected)?;
    row.expect("process.comm", "redis-server")?;
    audit_redis(bench)?;
    // The client's link is dead.
    link.at_far(|| net::set_link_up(FAR, false))?;
    let port = client.local()?.port();
    let closed = tracer
        .wait_for_line(PATIENCE, |event| {
            event.is("closed") && event.number("socket.peer.port").ok() == Some(port.into())
        })
        .context("redis did not end the connection")?;
    closed.expect("cause", "keepalive_probes")?;
    closed.expect("probes_out", 3)?;
    closed.expect_within("idle_ms", 6000..=8000)?;
    closed.expect("process.comm", "redis-server")?;
    tracer.interrupt()?.end()?;
    Ok(())
}

/// Expects a finding with the server's real settings and the directive that changes them.
fn audit_redis(bench: &Bench) -> Result<()> {
    let finding = first_finding(bench, &["-L", &PORT.to_string(), "--idle-timeout", "2s"])?;
    finding.expect("rule", "late_for_middlebox")?;
    let evidence = finding.text("evidence");
    ensure!(evidence.contains("first probe after 3 s"), "{finding}");
    let remedy = finding.text("remedy");
    ensure!(remedy.contains("`tcp-keepalive 1`"), "{finding}");
    Ok(())
}

/// The most severe finding of `audit`.
fn first_finding(bench: &Bench, arguments: &[&str]) -> Result<Event> {
    let mut command = Command::new(&bench.keepalive);
    command
        .args(["audit", "--json"])
        .args(arguments)
        .stdin(Stdio::null());
    let run = Refused::from(command)?;
    run.expect_code(0)?;
    Event::parse(run.stdout.lines().next().context("no finding")?)
}

/// `tcp_keepalives_*` and `tcp_user_timeout`, and the audit's finding about them.
fn postgresql(bench: &Bench) -> Result<()> {
    let _namespace = Namespace::create()?;
    let directory = "/tmp/keepalive-scenario-postgresql";
    fresh(directory)?;
    chown(directory, Some(NOBODY), Some(NOBODY))?;
    let data = format!("{directory}/data");
    let initdb = Path::new(POSTGRESQL).with_file_name("initdb");
    let made = Command::new(initdb)
        .args(["--no-sync", "-A", "trust", "-U", "nobody", "-D", &data])
        .current_dir(directory)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .context("initdb")?;
    ensure!(made.status.success(), "initdb: {made:?}");
    let mut server = Command::new(POSTGRESQL);
    server
        .args(["-D", &data, "-h", "127.0.0.1", "-k", directory])
        .args(["-p", &PORT.to_string()])
        .args(["-c", "tcp_keepalives_idle=7"])
        .args(["-c", "tcp_keepalives_interval=2"])
        .args(["-c", "tcp_keepalives_count=4"])
        .args(["-c", "tcp_user_timeout=9000"])
        .current_dir(directory)
        .uid(NOBODY)
        .gid(NOBODY);
    let _server = Server::start(&mut server)?;
    let client = connect(LOCALHOST)?;
    thread::sleep(Duration::from_millis(500));
    let row = server_end(bench, &client)?;
    let expected = json!({
        "enabled": true, "time_ms": 7000, "time_origin": "socket", "interval_ms": 2000,
        "interval_origin": "socket", "probes": 4, "probes_origin": "socket", "user_timeout_ms": 9000,
    });
    row.expect("keepalive", expected)?;
    row.expect("process.comm", "postgres")?;
    let port = client.local()?.port().to_string();
    let finding = first_finding(bench, &["-R", &port])?;
    finding.expect("rule", "count_ignored")?;
    let evidence = finding.text("evidence");
    ensure!(evidence.contains("TCP_KEEPCNT 4"), "{finding}");
    let explained = explain(bench, client.local()?.port())?;
    explained.expect("plan.rule", "keepalive_user_timeout")?;
    explained.expect("plan.probes.most", 1)?;
    Ok(())
}
