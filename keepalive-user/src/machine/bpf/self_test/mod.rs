//! # The self-test
//!
//! Before any event is reported, the programs read a socket of our own: a loopback connection with
//! options that no other connection has by chance. If a program reads another value than was set, the
//! layout is wrong, and the backend is refused. No traffic leaves the host.
//!
//! It also finds values that the kernel does not report: its tick (HZ), and the addresses of its timer
//! callbacks, without kallsyms and so also under `kernel.kptr_restrict=2`.

mod compare;
mod connection;
mod sockets;
mod truth;

use anyhow::{Context, Result};
use aya::{Ebpf, maps::Array};
use keepalive_ebpf::{KernelLayout, SelfTest, TimerFunctions};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use self::{
    connection::enter_new_netns,
    truth::{After, Truth},
};
pub use self::{
    connection::{Connection, Depth},
    sockets::{BUFFERS, is_of_a_self_test, is_on_loopback},
};

const IDLE_SECONDS: u32 = 1234;
const INTERVAL_SECONDS: u32 = 56;
const PROBES: u32 = 7;
const USER_TIMEOUT_MS: u32 = 1_234_567;

/// The result of the self-test.
pub struct Learned {
    /// The kernel's tick, per second.
    pub hz: u32,
    pub functions: TimerFunctions,
    /// Whether the kernel's process ids are those in /proc (not so in a pid namespace).
    pub same_pids: bool,
}

type TestMap<'a> = Array<&'a mut aya::maps::MapData, [u8; size_of::<SelfTest>()]>;

/// Runs the test; its two programs must be attached.
///
/// # Errors
/// Names the field that was read wrong, with both values.
pub fn run(ebpf: &mut Ebpf, layout: &KernelLayout, depth: Depth) -> Result<Learned> {
    let begin = std::time::Instant::now();
    let map = ebpf
        .map_mut("SELF_TEST")
        .context("the BPF object has no map SELF_TEST")?;
    let mut map: TestMap<'_> = Array::try_from(map)?;
    let map = &mut map;
    let trials = exercise(map, depth).or_else(|here| {
        // If loopback is unusable here, a new network namespace has a usable one.
        log::debug!("self-test: {here:#}; trying in a network namespace of its own");
        std::thread::scope(|scope| {
            scope
                .spawn(|| enter_new_netns().and_then(|()| exercise(map, depth)))
                .join()
                .map_err(|_| anyhow::anyhow!("the self-test thread panicked"))?
                .context(here)
        })
    });
    write(map, &SelfTest::new_zeroed())?;
    let (open, closed) = trials?;
    if let Some(closed) = closed {
        compare::test(&closed.truth, &closed.after, layout, &closed.test)?;
    }
    let learned = compare::test(&open.truth, &open.after, layout, &open.test)?;
    log::debug!("self-test: passed in {:?}", begin.elapsed());
    Ok(learned)
}

/// One connection: the kernel's report from before and after the programs read it, and their result.
struct Trial {
    truth: Truth,
    after: After,
    test: SelfTest,
}

impl Trial {
    fn of(connection: Connection, map: &TestMap<'_>) -> Result<Self> {
        let after = connection.shut_down()?;
        Ok(Self {
            test: read(map)?,
            truth: connection.truth,
            after,
        })
    }
}

/// Attempts to close the window; one fails if a probe is sent before the socket is read.
const ATTEMPTS: u32 = 3;

/// Makes the system calls: connect, setsockopt, send, shutdown. With the window open no value changes,
/// however slow the machine is; with the window closed the write timer runs.
fn exercise(map: &mut TestMap<'_>, depth: Depth) -> Result<(Trial, Option<Trial>)> {
    let open_trial = Trial::of(open(map)?, map)?;
    for _ in 0..ATTEMPTS {
        let mut connection = open(map)?;
        if !connection.close_window(depth)? {
            log::debug!("self-test: the window does not close");
            break;
        }
        let trial = Trial::of(connection, map)?;
        if trial.truth.is_quiet(&trial.after) {
            return Ok((open_trial, Some(trial)));
        }
        log::debug!("self-test: the closed window was probed just now");
    }
    Ok((open_trial, None))
}

fn open(map: &mut TestMap<'_>) -> Result<Connection> {
    Connection::open(|peer_port, netns| {
        let test = SelfTest {
            peer_port: peer_port.into(),
            netns,
            ..SelfTest::new_zeroed()
        };
        write(map, &test)
    })
}

fn read(map: &TestMap<'_>) -> Result<SelfTest> {
    let bytes = map.get(&0, 0)?;
    SelfTest::read_from_bytes(&bytes).map_err(|error| anyhow::anyhow!("SELF_TEST: {error}"))
}

fn write(map: &mut TestMap<'_>, test: &SelfTest) -> Result<()> {
    let mut bytes = [0; size_of::<SelfTest>()];
    bytes.copy_from_slice(test.as_bytes());
    Ok(map.set(0, bytes, 0)?)
}
