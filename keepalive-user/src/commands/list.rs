//! # `keepalive list`
//!
//! One snapshot of all TCP sockets, once or repeated.

use std::{
    io::Write,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use keepalive_ebpf::{Filter, Snapshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    cli::{List, Switch},
    core::{
        clock::Clock,
        exit::{Exit, is_broken_pipe, worst},
        filter,
    },
    machine::{
        bpf::Options,
        clock,
        listing::{Lister, Listing},
        namespace::Namespace,
        owners::Cgroups,
        parallel,
        queue::Listings,
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
            None => Listings::once(),
            // It formats events, of which a listing has none.
            Some(_) => Listings::repeated(Box::new(Format::Json), arguments.json)?,
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
        Some(every) => {
            let watched = command.watch(every);
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
    writer: Listings,
}

impl Command<'_> {
    /// Repeats the listing until a signal ends it.
    fn watch(&mut self, every: Duration) -> Result<()> {
        // The second signal ends it at once, also in the middle of a listing.
        stop::install()?;
        session::block_on(async {
            let mut requests = stop::Requests::new()?;
            let mut tick = interval(every);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut again = false;
            loop {
                tokio::select! {
                    _ = tick.tick() => self.show(again)?,
                    () = requests.recv() => return Ok(()),
                }
                again = true;
            }
        })
    }

    /// Lists once.
    fn show(&mut self, again: bool) -> Result<()> {
        let (namespaces, missing) = self.arguments.select.namespaces(self.arguments.all_netns)?;
        let clock = clock::now();
        let begin = Instant::now();
        let mut listing = self.list(&namespaces)?;
        listing.incomplete.extend(missing);
        log::debug!("listed in {:?}", begin.elapsed());
        self.only_print();
        let begin = Instant::now();
        let style = self.style(&listing, &clock, namespaces.len() > 1);
        let mut text = Text::default();
        list::header(style, again, self.colour, &mut text);
        self.writer
            .write_all(text.bytes())
            .context("cannot write")?;
        let make = |range: Range<usize>, text: &mut Text| {
            text.clear();
            for index in range {
                let row = listing.row(&listing.sockets[index], index as u64 + 1, &clock);
                list::socket(style, row, text)?;
            }
            Ok(())
        };
        parallel::in_order(listing.sockets.len(), make, |text| {
            self.writer.write_all(text.bytes()).context("cannot write")
        })?;
        log::debug!("written in {:?}", begin.elapsed());
        let mut end = listing.end(clock::when(clock), &namespaces, &self.lister.refused);
        // With a filter most of many namespaces have no socket to show.
        if self.arguments.all_netns && self.is_filtered() {
            end.namespaces.retain(|namespace| namespace.sockets > 0);
        }
        list::end(style, end, &mut self.writer)?;
        self.writer.end()
    }

    /// Whether some sockets are left out.
    fn is_filtered(&self) -> bool {
        let arguments = self.arguments;
        self.filter != Filter::default()
            || arguments.select.pid.is_some()
            || arguments.keepalive.is_some()
            || !arguments.state.is_empty()
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

    /// JSON, or a table with columns that fit the first rows.
    fn style(&self, listing: &Listing, clock: &Clock, several_netns: bool) -> Style {
        if self.arguments.json {
            return Style::Json;
        }
        let mut columns = Columns::new(Shown {
            netns: several_netns,
            owner: !self.arguments.no_owner,
            wide: self.arguments.wide,
        });
        for socket in listing.sockets.iter().take(FITTED) {
            columns.fit(&listing.row(socket, 1, clock));
        }
        Style::Table(columns)
    }

    /// The wanted sockets in the wanted order.
    fn list(&mut self, namespaces: &[Namespace]) -> Result<Listing> {
        let arguments = self.arguments;
        let filter = self.filter;
        let with_owners = !arguments.no_owner;
        let mut listing = self
            .lister
            .list(namespaces, with_owners, &|socket: &Snapshot| {
                arguments.shows(socket.id.state) && filter::admits(&filter, &socket.id)
            })?;
        if let Some(pid) = arguments.select.pid {
            listing.prefer(pid);
        }
        if let Some(switch) = arguments.keepalive {
            listing.retain_keepalive(switch == Switch::On);
        }
        if let Some(key) = arguments.sort {
            listing.sort(key.order());
        }
        // Before privileges are dropped: reading the paths of cgroups needs them.
        if arguments.json || arguments.wide {
            listing.resolve_places(&mut self.cgroups);
        }
        Ok(listing)
    }
}
