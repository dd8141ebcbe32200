//! Where the ends of a connection are, and which of them does not do its part, in sentences.

use crate::{
    core::{
        event::{AcceptQueue, ListedSocket, PeerPlace, TcpState},
        format::{millis, plural},
    },
    output::words::owner,
};

/// One sentence for each that applies.
pub fn sentences(socket: &ListedSocket) -> Vec<String> {
    [
        accepted(socket),
        peer(socket),
        closed(socket),
        unread(socket),
        probed(socket),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn accepted(socket: &ListedSocket) -> Option<String> {
    socket.not_accepted.then(|| match &socket.accept_queue {
        Some(queue) => format!(
            "No process has accepted it: it waits in the queue of {}.",
            self::queue(queue)
        ),
        None => "No process has accepted it yet.".to_owned(),
    })
}

/// `LISTEN 0.0.0.0:80 (nginx/801), 3 of at most 511`.
fn queue(queue: &AcceptQueue) -> String {
    let listener = owner(queue.process.as_ref());
    format!(
        "LISTEN {} ({listener}), {} of at most {}",
        queue.listener, queue.length, queue.most
    )
}

fn peer(socket: &ListedSocket) -> Option<String> {
    match socket.peer.as_ref()? {
        PeerPlace::Here => Some("Both ends are on this host.".to_owned()),
        PeerPlace::Proxy { local, process } => Some(format!(
            "It was redirected to a proxy on this host, {} at {local}: its probes reach only the proxy, which \
             has a connection of its own to the peer.",
            owner(process.as_ref())
        )),
        PeerPlace::Elsewhere => None,
    }
}

fn closed(socket: &ListedSocket) -> Option<String> {
    let since = socket.last_ack_ms?;
    (socket.socket.state == TcpState::CloseWait && !socket.not_accepted && !socket.orphan).then(
        || {
            format!(
                "The peer has closed its side, at least {} ago; {} has not.",
                millis(since),
                owner(socket.process.as_ref())
            )
        },
    )
}

fn unread(socket: &ListedSocket) -> Option<String> {
    let since = socket.last_data_ms?;
    (socket.receive_queue > 0 && since >= SOON_MS && !socket.orphan).then(|| {
        format!(
            "{} received and not read on this side; the last data arrived {} ago.",
            plural(socket.receive_queue.into(), "byte"),
            millis(since)
        )
    })
}

/// Until then a program is just about to read.
const SOON_MS: u64 = 1000;

/// What the peer's probes do not change: this side would not detect that the peer is gone.
fn probed(socket: &ListedSocket) -> Option<String> {
    let keepalive = socket.keepalive?;
    let ago = socket.peer_probe_ms?;
    (!keepalive.enabled && ago < socket.silence_ms? / 2).then(|| {
        format!(
            "The peer probes this side (last {} ago, as an empty segment outside the window, which \
             keepalive does not count as received).",
            millis(ago)
        )
    })
}
