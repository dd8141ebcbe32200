//! # `keepalive list`
//!
//! One snapshot of all TCP sockets: the listing gathers, this attributes, sorts and shows.

use std::{
    cmp::Reverse,
    io::{self, BufWriter, IsTerminal},
    time::Duration,
};

use anyhow::Result;
use keepalive_ebpf::{Filter, Snapshot};
use rustc_hash::FxHashMap;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    attribution::Attribution,
    cli::{List, SortKey, Switch},
    clock::Clock,
    event::{ListEnd, ListedNamespace},
    exit::{Exit, Refusal, is_broken_pipe},
    filter,
    listing::{Lister, Listing, row},
    namespace::Namespace,
    numbers::silence,
    output::list::{Columns, ListOutput},
    privileges,
    source::Options,
};

/// Rows that decide how wide columns are; longer ones among the rest stand out.
const FITTED: usize = 1000;

type Output = ListOutput<BufWriter<io::StdoutLock<'static>>>;

/// Runs the command.
pub fn run(arguments: &List) -> Result<Exit> {
    let filter = arguments
        .select
        .filter()
        .map_err(|error| Refusal::new(Exit::Usage, format!("{error:#}")))?;
    let options = Options {
        btf: arguments.btf.clone(),
        verbose: arguments.verbose,
        ..Options::default()
    };
    let mut command = Command {
        lister: Lister::open(arguments.source.source(), &options)?,
        attribution: Attribution::new(true),
        filter,
        arguments,
    };
    for refused in &command.lister.refused {
        log::debug!("{:?}: {}", refused.source, refused.reason);
    }
    let colour = io::stdout().is_terminal()
        && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let writer = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut output = ListOutput::new(arguments.json, colour, writer);
    let outcome = match arguments.watch {
        None => command.show(&mut output, false),
        Some(seconds) => command.watch(&mut output, seconds),
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
    attribution: Attribution,
}

impl Command<'_> {
    /// Lists again and again until a signal ends it.
    fn watch(&mut self, output: &mut Output, seconds: u32) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut tick = interval(Duration::from_secs(seconds.into()));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut again = false;
            loop {
                tokio::select! {
                    _ = tick.tick() => self.show(output, again)?,
                    _ = interrupt.recv() => return Ok(()),
                    _ = terminate.recv() => return Ok(()),
                }
                again = true;
            }
        })
    }

    /// Lists once.
    fn show(&mut self, output: &mut Output, again: bool) -> Result<()> {
        let namespaces = self.namespaces()?;
        let clock = Clock::now()?;
        let mut listing = self.list(&namespaces)?;
        let mut counts: FxHashMap<u32, u64> = FxHashMap::default();
        for socket in &listing.sockets {
            *counts.entry(socket.id.netns).or_default() += 1;
        }
        let with_owners = !self.arguments.no_owner;
        let mut columns = Columns::new(namespaces.len() > 1, with_owners);
        if !self.arguments.json {
            for socket in listing.sockets.iter().take(FITTED) {
                columns.fit(&row::row(socket, 0, listing.hz, &clock));
            }
        }
        output.begin(columns, again)?;
        for (index, socket) in listing.sockets.iter().enumerate() {
            let mut row = row::row(socket, index as u64 + 1, listing.hz, &clock);
            if with_owners {
                (row.process, row.pids) = listing.owners.processes(socket.id.inode);
            }
            if self.arguments.json {
                (row.cgroup, row.container_id) = self.attribution.cgroup(socket.id.cgroup);
            }
            output.socket(row)?;
        }
        let namespaces = namespaces
            .iter()
            .map(|namespace| ListedNamespace {
                netns: namespace.inode,
                sockets: counts.get(&namespace.inode).copied().unwrap_or_default(),
                sysctl: listing.sysctls.get(&namespace.inode).copied(),
            })
            .collect();
        output.end(ListEnd {
            when: clock.when()?,
            source: listing.source,
            refused: self.lister.refused.clone(),
            sockets: listing.sockets.len() as u64,
            namespaces,
            incomplete: listing.incomplete,
        })
    }

    fn namespaces(&self) -> Result<Vec<Namespace>> {
        if self.arguments.all_netns {
            let (all, denied) = Namespace::all()?;
            if denied > 0 {
                let hint = privileges::hint();
                log::warn!("{denied} processes do not tell their network namespace{hint}");
            }
            return Ok(all.into_values().collect());
        }
        let usage = |error: anyhow::Error| Refusal::new(Exit::Usage, format!("{error:#}"));
        Ok(vec![match &self.arguments.select.netns {
            None => Namespace::current()?,
            Some(name) => Namespace::named(name).map_err(usage)?,
        }])
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
            sockets.retain(|socket| {
                row::knows_settings(socket) && (socket.id.keepopen != 0) == wanted
            });
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
        let timers = row::timers(socket, hz);
        timers.first().map_or(u64::MAX, |timer| timer.in_ms)
    };
    let probe = |socket: &Snapshot| {
        let next = row::next_probe(socket, hz).and_then(|next| next.earliest_ms);
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
        SortKey::Silence => sockets.sort_by_key(|socket| Reverse(silence(&socket.numbers))),
        SortKey::Timer => sockets.sort_by_cached_key(next_timer),
        SortKey::Probe => sockets.sort_by_cached_key(probe),
        SortKey::RecvQ => sockets.sort_by_key(|socket| Reverse(socket.receive_queue)),
        SortKey::SendQ => sockets.sort_by_key(|socket| Reverse(socket.send_queue)),
        SortKey::Pid => sockets.sort_by_cached_key(pid),
    }
}
