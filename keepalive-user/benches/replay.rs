//! The speed of a replay, and the memory per tracked socket: the real binary on
//! recordings made here. Prints, and asserts nothing about time. `cargo xtask bench replay` runs it.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    mem::MaybeUninit,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use keepalive_ebpf::{ABI_VERSION, Identity, Kind, Record, RecordFlags};
use keepalive_user::{
    event::{Backend, Start, When},
    recording::{Frame, Header, Writer},
};

const HZ: u32 = 250;
const SECOND: u64 = 1_000_000_000;
/// Runs of each command; the best one counts, because other load only makes a run slower.
const TURNS: usize = 5;

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("keepalive-bench-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let outcome = measure(&directory);
    fs::remove_dir_all(&directory)?;
    outcome
}

fn measure(directory: &Path) -> Result<()> {
    let plain = directory.join("busy.kar");
    let packed = directory.join("busy-zstd.kar");
    let (sockets, runs) = (2_000, 1_000);
    for (path, compressed) in [(&plain, false), (&packed, true)] {
        record(path, sockets, runs, compressed)?;
        println!(
            "{sockets} sockets, {runs} timer runs each, {:.0} bytes a record{}",
            fs::metadata(path)?.len() as f64 / f64::from(sockets * runs),
            if compressed { " with zstd" } else { "" }
        );
    }
    // Every run except the first reports the answer to the previous probe, and its own probe.
    let events = u64::from(sockets) * u64::from(2 * runs);
    for (what, path, arguments) in [
        ("to JSON", &plain, &["--json"][..]),
        ("to text", &plain, &[]),
        ("to nothing (decode + track)", &plain, &["--check"]),
        ("to nothing, from zstd", &packed, &["--check"]),
    ] {
        let cost = best(path, arguments)?;
        let seconds = cost.cpu.as_secs_f64();
        println!(
            "{what:28} {:6.2} M events/s, {:6.2} M records/s of CPU, {} MB",
            events as f64 / seconds / 1e6,
            f64::from(sockets * runs) / seconds / 1e6,
            cost.peak >> 20,
        );
    }
    let few = directory.join("few.kar");
    let many = directory.join("many.kar");
    let count = 1_000_000;
    record(&few, 1, 2, false)?;
    record(&many, count, 2, false)?;
    let (few, many) = (best(&few, &["--check"])?, best(&many, &["--check"])?);
    println!(
        "{count} sockets: {} bytes each, {:.2} M records/s",
        (many.peak - few.peak) / u64::from(count),
        f64::from(2 * count) / many.cpu.as_secs_f64() / 1e6,
    );
    Ok(())
}

/// The cost of a run.
struct Cost {
    cpu: Duration,
    /// Bytes.
    peak: u64,
}

fn best(path: &Path, arguments: &[&str]) -> Result<Cost> {
    let mut all = Vec::new();
    for _ in 0..TURNS {
        all.push(replay(path, arguments)?);
    }
    all.into_iter()
        .min_by_key(|cost| cost.cpu)
        .context("no run")
}

fn replay(path: &Path, arguments: &[&str]) -> Result<Cost> {
    let child = Command::new(env!("CARGO_BIN_EXE_keepalive"))
        .arg("replay")
        .arg(path)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()?;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    let pid = i32::try_from(child.id())?;
    // SAFETY: both pointers are to locals; no other code waits for the child.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    ensure!(waited == pid, io::Error::last_os_error());
    ensure!(status == 0, "replay ended with status {status}");
    // SAFETY: it is plain numbers, and `wait4` filled it.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    Ok(Cost {
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        peak: usage.ru_maxrss as u64 * 1024,
    })
}

/// A recording of sockets that are probed in turn, and whose peers answer.
fn record(path: &Path, sockets: u32, runs: u32, compressed: bool) -> Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let mut writer = Writer::new(file, &header()?, compressed)?;
    writer.frame(&Frame::Cgroup {
        id: 1,
        path: Some("/"),
    })?;
    for socket in 0..sockets {
        writer.frame(&Frame::Process {
            inode: 10_000 + u64::from(socket),
            process: Some((4711, "a-server")),
        })?;
    }
    for run in 1..=runs {
        for socket in 0..sockets {
            writer.frame(&Frame::Record(&probe(socket, run)))?;
        }
    }
    let time = u64::from(runs + 1) * SECOND;
    writer.frame(&Frame::End { time })?;
    writer.flush()
}

fn header() -> Result<Header> {
    Ok(Header {
        abi_version: ABI_VERSION,
        sequence: 0,
        start: Start {
            host: None,
            when: When {
                timestamp: "2026-01-01T00:00:00Z".parse()?,
                monotonic_ns: SECOND,
            },
            schema_version: String::new(),
            version: String::new(),
            kernel: "none".to_owned(),
            backend: Backend::Fentry,
            refused: Vec::new(),
            hz: HZ,
            clock_offset_ns: 1_767_225_599 * SECOND as i64,
            keepalive_timer: String::new(),
            ring_bytes: 0,
            live_answers: false,
            filters: Default::default(),
        },
        pid: None,
        count: None,
        layout: Vec::new(),
    })
}

/// The `run`th run of the timer of a socket: a probe, and the one before was answered.
fn probe(socket: u32, run: u32) -> Record {
    let jiffies = u64::from(run * HZ);
    let time = u64::from(run) * SECOND + u64::from(socket) * 1000;
    let mut record = Record {
        flags: RecordFlags::WAKEUP_WATCHED | RecordFlags::WAKEUP_SEEN,
        cpu: socket % 8,
        ..Record::new(Kind::KeepaliveTimer)
    };
    let [a, b, c, d] = socket.to_be_bytes();
    record.id = Identity {
        sk: 0xffff_8880_0000_0000 + u64::from(socket) * 2304,
        cookie: 1 + u64::from(socket),
        inode: 10_000 + u64::from(socket),
        cgroup: 1,
        local: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1],
        peer: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10 + a, b, c, d],
        netns: 4_026_531_840,
        local_port: 443,
        peer_port: 1024 + (socket % 60_000) as u16,
        family: 2,
        state: 1,
        keepopen: true,
        ..Identity::default()
    };
    record.settings.time = HZ;
    record.settings.interval = HZ;
    record.settings.probes = 9;
    record.settings.sysctl_time = 7200 * HZ;
    record.settings.sysctl_interval = 75 * HZ;
    record.settings.sysctl_probes = 9;
    record.settings.sysctl_retries2 = 15;
    for numbers in [&mut record.before, &mut record.after] {
        numbers.time = time;
        numbers.jiffies = jiffies;
        numbers.expires = jiffies;
        numbers.clock_cache = time - SECOND + 300_000;
        numbers.rcv_tstamp = (jiffies - u64::from(HZ)) as u32;
        numbers.write_seq = 1;
        numbers.snd_nxt = 1;
        numbers.snd_una = 1;
        numbers.snd_wnd = 65_536;
        numbers.segs_out = run;
        numbers.rto = HZ / 5;
        numbers.state = 1;
        numbers.keepopen = true;
    }
    record.after.time += 5_000;
    record.after.clock_cache = time + 2_000;
    record.after.expires = jiffies + u64::from(HZ);
    record.after.timer_pending = true;
    record.after.probes_out = 1;
    record.after.segs_out = run + 1;
    record
}
