//! `keepalive explain`: explains one socket, or given settings: what the settings mean, what prevents a
//! probe now, and what the kernel will do when.

mod follow;
mod watch;

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result, bail};
use keepalive_ebpf::Filter;

use crate::{
    cli::{Explain, Selection},
    core::{
        arithmetic,
        event::{Explanation, ListedSocket, PlannedSettings},
        exit::{Exit, Refusal, is_broken_pipe},
        kernel,
        ledger::Closes,
        outlook,
        pipeline::Wanted,
        target::Target,
    },
    machine::{
        bpf::Options,
        clock,
        listing::find::{Finder, Located},
        namespace,
        sandbox::{Confinement, Needs},
        session::{Older, Request},
        terminal,
    },
    output::explain,
};

/// The most sockets in a choice.
const SHOWN: usize = 20;

/// Runs the command.
pub fn run(arguments: &Explain) -> Result<Exit> {
    let outcome = match &arguments.target {
        Some(target) => explain_socket(target, arguments),
        None if arguments.settings.is_given() => calculate(arguments).map(|()| Exit::Success),
        None => Err(Refusal::new(
            Exit::Usage,
            "which socket? give a PID, :PORT, ADDR:PORT, LOCAL-PEER or sk:COOKIE, as in \
             `keepalive explain :5432`; or settings to calculate with, as in `keepalive explain \
             --idle 60`; see `keepalive explain --help`",
        )
        .into()),
    };
    match outcome {
        Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
        outcome => outcome,
    }
}

/// What settings mean, without a socket.
fn calculate(arguments: &Explain) -> Result<()> {
    let given = &arguments.settings;
    let sysctls = namespace::sysctls()
        .context("/proc/sys/net/ipv4 does not show this namespace's defaults")?;
    let seconds = |given: Option<u32>, default: u64| given.map_or(default, |s| u64::from(s) * 1000);
    let settings = PlannedSettings {
        time_ms: seconds(given.idle, sysctls.time_ms),
        interval_ms: seconds(given.interval, sysctls.interval_ms),
        probes: given.count.unwrap_or(sysctls.probes),
        user_timeout_ms: given.user_timeout.unwrap_or(0).into(),
        retries2: given.retries2.unwrap_or(sysctls.retries2),
        rto_max_ms: kernel::RTO_MAX_MS,
    };
    let explanation = Explanation {
        plan: Some(arithmetic::plan(settings, clock::hz())),
        ..Explanation::default()
    };
    show(&explanation, arguments.json)
}

fn explain_socket(target: &Target, arguments: &Explain) -> Result<Exit> {
    let options = Options {
        btf: arguments.btf.clone(),
        verbose: arguments.verbose,
        ..Options::default()
    };
    let select = Selection {
        netns: arguments.netns.clone(),
        ..Selection::default()
    };
    let (namespaces, _) = select.namespaces(arguments.all_netns)?;
    let mut finder = Finder::open(namespaces, arguments.all_netns, &options)?;
    let found = finder.find(target, choose)?;
    let matched = target.matched(&found.row.socket);
    let confinement = arguments.sandbox.confinement();
    if arguments.follow {
        return follow::follow(&mut finder, found, matched, &options, confinement);
    }
    let Some(time) = arguments.watch else {
        let explanation = Explanation {
            matched,
            ..explanation(&found)
        };
        confinement.enter(&Needs::printing());
        show(&explanation, arguments.json)?;
        return Ok(Exit::Success);
    };
    let closes = watch::watch(&finder, &found, time, &options, confinement)?;
    let with = |found: &Located, closes: Option<Closes>| Explanation {
        owner_closes: closes.map(|closes| closes.owner),
        peer_closes: closes.map(|closes| closes.peer),
        matched,
        ..explanation(found)
    };
    match finder.again(&found)? {
        Some(found) => {
            show(&with(&found, closes), arguments.json)?;
            Ok(Exit::Success)
        }
        None => {
            show(&with(&found, closes), arguments.json)?;
            // What it was watched for.
            log::warn!("the socket ended while it was watched; this is how it was before");
            Ok(Exit::Success)
        }
    }
}

/// Lets the user choose among several, if there is one to ask.
fn choose(rows: &[ListedSocket]) -> Result<usize> {
    if rows.len() == 1 {
        return Ok(0);
    }
    let count = rows.len();
    for (index, row) in rows.iter().take(SHOWN).enumerate() {
        anstream::eprintln!("{:>4}  {}", index + 1, explain::choice(row));
    }
    if count > SHOWN {
        anstream::eprintln!("      … and {} more", count - SHOWN);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        bail!(
            "{count} sockets match: name one by LOCAL-PEER or sk:COOKIE, as listed above, or a namespace by -N"
        );
    }
    Ok(terminal::ask_number("Which one?", count.min(SHOWN))? - 1)
}

fn show(explanation: &Explanation, json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if json {
        explain::json(explanation, &mut out)?;
    } else {
        explain::text(explanation, &mut out)?;
    }
    out.flush().context("cannot write")
}

fn explanation(found: &Located) -> Explanation {
    let host = namespace::host();
    let elsewhere = host.filter(|(netns, _)| *netns != found.row.socket.netns);
    let host = elsewhere.map(|(_, sysctls)| sysctls);
    outlook::explain(&found.row, found.sysctls, host, clock::hz())
}

/// A session of this connection alone, or of all to its service.
fn request(
    found: &Located,
    alone: bool,
    options: &Options,
    confinement: Confinement,
) -> Result<Request> {
    let socket = &found.row.socket;
    let select = Selection {
        local_port: (alone || found.is_accepted).then_some(socket.local.port),
        remote_port: (alone || !found.is_accepted).then_some(socket.peer.port),
        netns: Some(socket.netns.to_string()),
        ..Selection::default()
    };
    Ok(Request {
        options: Options {
            // The ends of sockets without keepalive matter here, too.
            filter: Filter {
                all_ends: 1,
                ..select.filter()?
            },
            ring_bytes: 1 << 20,
            ..options.clone()
        },
        wanted: Wanted::default(),
        older: Older::Ignored,
        needs: Default::default(),
        confinement,
        filters: select.described(),
    })
}
