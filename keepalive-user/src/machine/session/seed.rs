//! Sockets that are older than the session, if the kernel allows listing them: without that they are
//! unknown until their first event. A thread lists them, which takes long on a large machine; the session
//! takes the results in batches. The resolver finds their owners.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Filter, Kind, Record, Snapshot};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Older, Session};
use crate::{
    core::{exit::Interrupted, filter, kernel::state},
    machine::{
        bpf::{Kernel, iterator::Iterators, self_test::is_of_a_self_test},
        namespace::{self, Namespace},
        stop,
    },
};

/// The time limit of the listing, checked between two reads.
const LISTING: Duration = Duration::from_secs(2);
/// The most batches in the channel.
const BATCHES: usize = 8;

/// The iterator programs, shared with the resolver.
pub type SharedIterators = Arc<Mutex<Iterators>>;

/// The running listing.
pub struct Seeding {
    batches: Receiver<Vec<Snapshot>>,
    /// Whether more may come.
    running: bool,
}

impl Seeding {
    /// Starts the thread. It ends when all sockets are listed, its time is over, or the session stops. The
    /// programs are `None` if the kernel refuses them.
    pub fn start(kernel: &Kernel, filter: Filter) -> Result<(Self, Option<SharedIterators>)> {
        let (sender, batches) = channel(BATCHES);
        let iterators = Iterators::load(kernel)
            .inspect_err(|error| log::debug!("older sockets are not listed: {error:#}"))
            .ok()
            .map(|iterators| Arc::new(Mutex::new(iterators)));
        if let Some(iterators) = iterators.clone() {
            thread::Builder::new()
                .name("seeding".to_owned())
                .spawn(move || list(&iterators, &filter, &sender))
                .context("cannot start a thread")?;
        }
        let seeding = Self {
            batches,
            running: true,
        };
        Ok((seeding, iterators))
    }

    /// One that lists nothing.
    pub fn none() -> Self {
        let (_, batches) = channel(1);
        Self {
            batches,
            running: false,
        }
    }

    pub fn is_running(&self) -> bool {
        self.running
    }

    /// The next batch; `None` at the end.
    pub async fn next(&mut self) -> Option<Vec<Snapshot>> {
        let older = self.batches.recv().await;
        self.running = older.is_some();
        older
    }
}

/// The thread.
fn list(iterators: &Mutex<Iterators>, filter: &Filter, sender: &Sender<Vec<Snapshot>>) {
    let begin = Instant::now();
    let namespaces = Namespace::all().map_or_else(
        |_| Vec::new(),
        |(all, _)| {
            let is_wanted = |it: &Namespace| filter.netns == 0 || filter.netns == it.inode;
            all.into_values().filter(is_wanted).collect()
        },
    );
    let all = namespaces.len();
    for (done, namespace) in namespaces.into_iter().enumerate() {
        // Each namespace needs a walk over all sockets of the machine.
        if begin.elapsed() > LISTING {
            log::warn!(
                "sockets older than this command are not listed in {} of {all} network namespaces: \
                 listing them takes too long; each is reported when its timer runs",
                all - done
            );
            return;
        }
        let listed = namespace.within(|| {
            if namespace::may_have_tcp() {
                list_one(iterators, filter, sender)
            } else {
                Ok(())
            }
        });
        match listed {
            Err(error) if error.is::<Interrupted>() => return,
            Err(error) => log::debug!("older sockets of namespace {}: {error:#}", namespace.inode),
            Ok(()) => {}
        }
    }
}

/// The sockets of the calling thread's namespace.
fn list_one(
    iterators: &Mutex<Iterators>,
    filter: &Filter,
    sender: &Sender<Vec<Snapshot>>,
) -> Result<()> {
    let walk = iterators
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .sockets()?;
    walk.try_batches(|batch| {
        let wanted = |socket: &&Snapshot| {
            socket.id.keepopen
                && socket.id.state != state::LISTEN
                && filter::admits(filter, &socket.id)
        };
        let found: Vec<Snapshot> = batch.iter().filter(wanted).copied().collect();
        stop::check()?;
        if found.is_empty() {
            return Ok(());
        }
        sender.blocking_send(found).map_err(|_| Interrupted.into())
    })
}

impl Session {
    /// Takes a batch of the listing.
    pub fn seed(&mut self, older: &[Snapshot]) -> Result<()> {
        for socket in older {
            if is_of_a_self_test(&socket.id, &socket.settings) {
                continue;
            }
            match self.older {
                Older::Reported => self.pipeline.record(&listed(socket))?,
                Older::Remembered | Older::Ignored => {
                    let sample = &socket.sample;
                    self.pipeline.seed(&socket.id, sample.time, Some(sample))?;
                }
            }
        }
        Ok(())
    }
}

/// The record of a socket without an event yet.
fn listed(socket: &Snapshot) -> Record {
    Record {
        id: socket.id,
        settings: socket.settings,
        after: socket.sample,
        ..Record::new(Kind::Listed)
    }
}
