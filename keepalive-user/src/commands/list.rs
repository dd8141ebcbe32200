//! # `keepalive list`
//!
//! One snapshot of all TCP sockets: the listing gathers, this attributes, sorts and shows.

use std::{
    cmp::Reverse,
    io::{self, BufWriter, Write},
    num::NonZero,
    sync::Arc,
    thread::{self, available_parallelism},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Filter, Snapshot};
use rustc_hash::FxHashMap;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    cli::{List, SortKey, Switch},
    core::{
        clock::Clock,
        event::{Cgroup, ListEnd, ListedNamespace, ListedSocket},
        exit::{Exit, is_broken_pipe, worst},
        filter,
        pipeline::Output,
        rows,
        sample::silence,
    },
    machine::{
        bpf::Options,
        clock,
        listing::{Lister, Listing},
        namespace::Namespace,
        owners::Cgroups,
        queue::{PATIENCE, Queued},
        sandbox::Needs,
        session, stop, terminal,
    },
    output::{
        Format,
        list::{self, Columns, Shown, Style, Text},
    },
};

/// The number of rows that determine the column widths; longer values in later rows exceed them.
const FITTED: usize = 1000;

/// Lines that one thread formats before they are written.
const AT_ONCE: usize = 4096;

/// The destination of the lines.
enum Writer {
    /// One listing: a slow reader delays it.
    Direct(BufWriter<io::StdoutLock<'static>>),
    /// Repeated listings: a slow reader misses whole ones, and delays none.
    Live { gathered: Vec<u8>, queued: Queued },
}

impl Writer {
    /// Waits until the reader has taken the last listing, but not for long.
    fn finish(&mut self) -> Result<()> {
        match self {
            Self::Direct(_) => Ok(()),
            Self::Live { queued, .. } => queued.finish(PATIENCE),
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(writer) => writer.write(bytes),
            Self::Live { gathered, .. } => gathered.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Direct(writer) => writer.flush(),
            Self::Live { gathered, queued } => {
                let listing = std::mem::take(gathered);
                let taken = queued.text(|line| {
                    line.extend(&listing);
                    Ok(())
                });
                taken
                    .and_then(|()| queued.flush())
                    .map_err(io::Error::other)
            }
        }
    }
}

/// Runs the command.
pub fn run(arguments: &List) -> Result<Exit> {
    let filter = arguments.select.filter()?;
    let options = Options {
        btf: arguments.btf.clone(),
        verbose: arguments.verbose,
        ..Options::default()
    };
    let begin = Instant::now();
    let mut command = Command {
        lister: Lister::open(arguments.source.source(), &options)?,
        cgroups: Cgroups::open(),
        colour: terminal::wants_colour(),
        writer: match arguments.watch {
            None => Writer::Direct(BufWriter::with_capacity(1 << 16, io::stdout().lock())),
            Some(_) => Writer::Live {
                gathered: Vec::new(),
                queued: Queued::stdout(Box::new(Format::of(false, false)))?,
            },
        },
        filter,
        arguments,
    };
    log::debug!("opened in {:?}", begin.elapsed());
    if arguments.watch.is_some() {
        let elsewhere = arguments.all_netns || arguments.select.netns.is_some();
        arguments
            .sandbox
            .confinement()
            .enter(&command.lister.needs(elsewhere));
    }
    let outcome = match arguments.watch {
        None => command.show(false),
        Some(seconds) => {
            let watched = command.watch(seconds);
            worst([watched, command.writer.finish()])
        }
    };
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome.map(|()| Exit::Success),
    }
}

struct Command<'a> {
    arguments: &'a List,
    filter: Filter,
    lister: Lister,
    cgroups: Cgroups,
    colour: bool,
    writer: Writer,
}

/// The data of the rows.
struct Making<'a> {
    listing: &'a Listing,
    clock: Clock,
    /// By cgroup id; none if they are not shown.
    places: FxHashMap<u64, Place>,
    /// The process to print first, if it is among a socket's owners.
    first: Option<u32>,
}

type Place = (Option<Arc<Cgroup>>, Option<Arc<str>>);

impl Making<'_> {
    fn row(&self, index: usize) -> ListedSocket {
        let listing = self.listing;
        let socket = &listing.sockets[index];
        let mut row = listing.row(socket, index as u64 + 1, &self.clock);
        if let Some(first) = self.first.filter(|first| row.pids.contains(first)) {
            row.process = listing.owners.process(first);
        }
        if let Some(place) = self.places.get(&socket.id.cgroup) {
            (row.cgroup, row.container_id) = place.clone();
        }
        row
    }

    /// Writes the lines of all sockets, in order. All CPUs format them, some thousands at a time.
    fn write(&self, style: Style, writer: &mut impl Write) -> Result<()> {
        let workers = available_parallelism().map_or(1, NonZero::get);
        let mut texts: Vec<Text> = Vec::new();
        texts.resize_with(workers, Text::default);
        let total = self.listing.sockets.len();
        for start in (0..total).step_by(AT_ONCE * workers) {
            let parts = (start..total).step_by(AT_ONCE).zip(&mut texts);
            let used = thread::scope(|scope| -> Result<usize> {
                let made: Vec<_> = parts
                    .map(|(from, text)| {
                        scope.spawn(move || {
                            text.clear();
                            (from..total.min(from + AT_ONCE))
                                .try_for_each(|index| list::socket(style, self.row(index), text))
                        })
                    })
                    .collect();
                let used = made.len();
                for part in made {
                    part.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                }
                Ok(used)
            })?;
            for text in &texts[..used] {
                writer.write_all(text.bytes()).context("cannot write")?;
            }
        }
        Ok(())
    }
}

impl Command<'_> {
    /// Repeats the listing until a signal ends it.
    fn watch(&mut self, seconds: u32) -> Result<()> {
        // The second signal ends it at once, also in the middle of a listing.
        stop::install()?;
        session::block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut tick = interval(Duration::from_secs(seconds.into()));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut again = false;
            loop {
                tokio::select! {
                    _ = tick.tick() => self.show(again)?,
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                }
                again = true;
            }
        })
    }

    /// Lists once.
    fn show(&mut self, again: bool) -> Result<()> {
        let arguments = self.arguments;
        let (namespaces, missing) = arguments.select.namespaces(arguments.all_netns)?;
        let clock = clock::now();
        let begin = Instant::now();
        let mut listing = self.list(&namespaces)?;
        log::debug!("listed in {:?}", begin.elapsed());
        // Before privileges are dropped: reading the paths of cgroups needs them.
        let places = self.places(&listing);
        self.only_print();
        listing.incomplete.extend(missing);
        let mut counts: FxHashMap<u32, u64> = FxHashMap::default();
        for socket in &listing.sockets {
            *counts.entry(socket.id.netns).or_default() += 1;
        }
        let making = Making {
            clock,
            places,
            first: arguments.select.pid,
            listing: &listing,
        };
        let style = if arguments.json {
            Style::Json
        } else {
            let mut columns = Columns::new(Shown {
                netns: namespaces.len() > 1,
                owner: !arguments.no_owner,
                wide: arguments.wide,
            });
            for index in 0..listing.sockets.len().min(FITTED) {
                columns.fit(&making.row(index));
            }
            Style::Table(columns)
        };
        let begin = Instant::now();
        let mut text = Text::default();
        list::header(style, again, self.colour, &mut text);
        self.writer
            .write_all(text.bytes())
            .context("cannot write")?;
        making.write(style, &mut self.writer)?;
        log::debug!("written in {:?}", begin.elapsed());
        let namespaces = namespaces
            .iter()
            .map(|namespace| ListedNamespace {
                netns: namespace.inode,
                sockets: counts.get(&namespace.inode).copied().unwrap_or_default(),
                sysctl: listing.sysctls.get(&namespace.inode).copied(),
            })
            .collect();
        let end = ListEnd {
            when: clock::when(clock),
            source: listing.source,
            refused: self.lister.refused.clone(),
            sockets: listing.sockets.len() as u64,
            namespaces,
            incomplete: listing.incomplete,
        };
        list::end(style, end, &mut self.writer)?;
        self.writer.flush().context("cannot write")
    }

    /// Drops what listing needs, unless it is repeated.
    fn only_print(&self) {
        if self.arguments.watch.is_none() {
            self.arguments
                .sandbox
                .confinement()
                .enter(&Needs::printing());
        }
    }

    /// The paths of the sockets' cgroups, if they are printed.
    fn places(&mut self, listing: &Listing) -> FxHashMap<u64, Place> {
        let mut places = FxHashMap::default();
        if self.arguments.json || self.arguments.wide {
            for socket in &listing.sockets {
                let id = socket.id.cgroup;
                places.entry(id).or_insert_with(|| self.cgroups.resolve(id));
            }
        }
        places
    }

    /// The wanted sockets in the wanted order.
    fn list(&mut self, namespaces: &[Namespace]) -> Result<Listing> {
        let arguments = self.arguments;
        let filter = self.filter;
        let states = arguments
            .state
            .iter()
            .fold(0u32, |states, state| states | 1 << state.number());
        let mut listing =
            self.lister
                .list(namespaces, !arguments.no_owner, &|socket: &Snapshot| {
                    (states == 0
                        || states & 1u32.checked_shl(socket.id.state.into()).unwrap_or(0) != 0)
                        && filter::admits(&filter, &socket.id)
                })?;
        let Listing {
            sockets, owners, ..
        } = &mut listing;
        if let Some(pid) = arguments.select.pid {
            sockets.retain(|socket| {
                let held = owners.of(socket.id.inode);
                held.iter().any(|descriptor| descriptor.pid == pid)
            });
        }
        if let Some(switch) = arguments.keepalive {
            let wanted = switch == Switch::On;
            sockets.retain(|socket| rows::knows_settings(socket) && socket.id.keepopen == wanted);
        }
        if let Some(key) = arguments.sort {
            sort(&mut listing, key);
        }
        Ok(listing)
    }
}

fn sort(listing: &mut Listing, key: SortKey) {
    let hz = listing.hz;
    let owners = &listing.owners;
    let sockets = &mut listing.sockets;
    let next_timer = |socket: &Snapshot| {
        let timers = rows::timers(socket, hz);
        timers.first().map_or(u64::MAX, |timer| timer.in_ms)
    };
    let probe = |socket: &Snapshot| {
        let next = rows::next_probe(socket, hz).and_then(|next| next.earliest_ms);
        next.unwrap_or(u64::MAX)
    };
    let pid = |socket: &Snapshot| {
        let held = owners.of(socket.id.inode);
        held.first().map_or(u32::MAX, |descriptor| descriptor.pid)
    };
    match key {
        SortKey::State => sockets.sort_by_key(|socket| socket.id.state),
        SortKey::Local => sockets.sort_by_key(|socket| (socket.id.local, socket.id.local_port)),
        SortKey::Peer => sockets.sort_by_key(|socket| (socket.id.peer, socket.id.peer_port)),
        SortKey::Silence => sockets.sort_by_key(|socket| Reverse(silence(&socket.sample))),
        SortKey::Timer => sockets.sort_by_cached_key(next_timer),
        SortKey::Probe => sockets.sort_by_cached_key(probe),
        SortKey::RecvQ => sockets.sort_by_key(|socket| Reverse(socket.receive_queue)),
        SortKey::SendQ => sockets.sort_by_key(|socket| Reverse(socket.send_queue)),
        SortKey::Pid => sockets.sort_by_cached_key(pid),
    }
}
