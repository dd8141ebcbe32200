//! Sockets that are older than the session, as far as the kernel lets us list them: their owners,
//! and what they may lose before something happens to them. A thread lists them, which takes long
//! on a large machine; the session takes what it has found a batch at a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Filter, KIND_LISTED, Record, Snapshot};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Session;
use crate::{
    descriptors::Descriptor,
    filter,
    namespace::Namespace,
    numbers::state,
    source::{Kernel, iterator::Iterators},
    stop::{self, Interrupted},
};

/// Time that the listing may take, beyond the read it is at.
const LISTING: Duration = Duration::from_secs(2);
/// Batches that may wait to be taken.
const BATCHES: usize = 8;

/// What was found.
pub enum Older {
    /// All open sockets of all processes, or why they are not listed.
    Descriptors(Result<Vec<Descriptor>>),
    /// Some sockets of one network namespace.
    Sockets(Vec<Snapshot>),
}

/// The running listing.
pub struct Seeding {
    batches: Receiver<Older>,
    /// Whether more may come.
    running: bool,
}

impl Seeding {
    /// Starts the thread. It ends when all is listed, its time is over, or the session stops.
    pub fn start(kernel: Kernel, filter: Filter, same_pids: bool) -> Result<Self> {
        let (sender, batches) = channel(BATCHES);
        thread::Builder::new()
            .name("seeding".to_owned())
            .spawn(move || {
                let listed = list(&kernel, &filter, same_pids, &sender);
                match listed {
                    Err(error) if !error.is::<Interrupted>() => {
                        log::debug!("older sockets are not listed: {error:#}");
                        // The session may have ended.
                        let _ = sender.blocking_send(Older::Descriptors(Err(error)));
                    }
                    _ => {}
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            batches,
            running: true,
        })
    }

    pub fn is_running(&self) -> bool {
        self.running
    }

    /// What was found next; `None` at the end.
    pub async fn next(&mut self) -> Option<Older> {
        let older = self.batches.recv().await;
        self.running = older.is_some();
        older
    }
}

/// The thread: first the owners, then the sockets.
fn list(kernel: &Kernel, filter: &Filter, same_pids: bool, sender: &Sender<Older>) -> Result<()> {
    let begin = Instant::now();
    let mut iterators = Iterators::load(kernel)?;
    let send = |older| {
        stop::check()?;
        sender.blocking_send(older).map_err(|_| Interrupted.into())
    };
    // Of other process ids than those of /proc nothing can be learned.
    let descriptors = if same_pids {
        descriptors(&mut iterators)
    } else {
        Err(anyhow::anyhow!("process ids are not those of /proc"))
    };
    send(Older::Descriptors(descriptors))?;
    let namespaces =
        Namespace::all().map_or_else(|_| Vec::new(), |(all, _)| all.into_values().collect());
    let all = namespaces.len();
    for (done, namespace) in namespaces.into_iter().enumerate() {
        // Each takes a walk over all sockets of the machine.
        if begin.elapsed() > LISTING {
            log::warn!(
                "sockets older than this command are not listed in {} of {all} network namespaces: \
                 listing them takes too long; each is reported when its timer runs",
                all - done
            );
            break;
        }
        if filter.netns != 0 && filter.netns != namespace.inode {
            continue;
        }
        let walked = namespace.within(|| {
            iterators.sockets()?.try_batches(|batch| {
                let wanted = |socket: &&Snapshot| {
                    socket.id.keepopen != 0
                        && socket.id.state != state::LISTEN
                        && filter::admits(filter, &socket.id)
                };
                let found: Vec<Snapshot> = batch.iter().filter(wanted).copied().collect();
                if found.is_empty() {
                    return stop::check();
                }
                send(Older::Sockets(found))
            })
        });
        match walked {
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => log::debug!("older sockets of namespace {}: {error:#}", namespace.inode),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn descriptors(iterators: &mut Iterators) -> Result<Vec<Descriptor>> {
    let mut all = Vec::new();
    iterators.descriptors()?.try_batches(|batch| {
        all.extend(batch.iter().map(Descriptor::from));
        stop::check()
    })?;
    Ok(all)
}

impl Session {
    /// Takes what the listing found.
    pub fn seed(&mut self, older: Older) -> Result<()> {
        match older {
            Older::Descriptors(found) => self.pipeline.attribution.prime(|each| {
                found?.into_iter().for_each(each);
                Ok(())
            }),
            Older::Sockets(found) => {
                for socket in &found {
                    if self.tell_older {
                        self.pipeline.record(&listed(socket))?;
                    } else {
                        let numbers = &socket.numbers;
                        self.pipeline
                            .seed(&socket.id, numbers.time, Some(numbers))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The record of a socket to which nothing has happened yet.
fn listed(socket: &Snapshot) -> Record {
    Record {
        kind: KIND_LISTED,
        id: socket.id,
        settings: socket.settings,
        after: socket.numbers,
        ..Record::default()
    }
}
