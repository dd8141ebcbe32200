//! # The order of a listing

use std::cmp::Reverse;

use keepalive_ebpf::Snapshot;

use super::{rows, sample::heard};

/// What sockets are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    State,
    /// Local address and port.
    Local,
    Peer,
    /// The one whose peer was heard of longest ago first.
    Silence,
    /// The next timer first.
    Timer,
    /// The next keepalive probe first.
    Probe,
    ReceiveQueue,
    SendQueue,
    /// The lowest of the ids of the processes that hold it.
    Pid,
}

/// Sorts sockets; those without a value come last. `pid` is the process that holds the socket with an inode
/// number.
pub fn sort(sockets: &mut [Snapshot], order: Order, hz: u32, pid: impl Fn(u64) -> Option<u32>) {
    let timer = |socket: &Snapshot| {
        let timers = rows::timers(socket, hz);
        timers.first().map_or(u64::MAX, |timer| timer.in_ms)
    };
    let probe = |socket: &Snapshot| {
        let next = rows::next_probe(socket, hz).and_then(|next| next.earliest_ms);
        next.unwrap_or(u64::MAX)
    };
    let pid = |socket: &Snapshot| pid(socket.id.inode).unwrap_or(u32::MAX);
    match order {
        Order::State => sockets.sort_by_key(|socket| socket.id.state),
        Order::Local => sockets.sort_by_key(|socket| (socket.id.local, socket.id.local_port)),
        Order::Peer => sockets.sort_by_key(|socket| (socket.id.peer, socket.id.peer_port)),
        Order::Silence => sockets.sort_by_key(|socket| Reverse(heard(&socket.sample))),
        Order::Timer => sockets.sort_by_cached_key(timer),
        Order::Probe => sockets.sort_by_cached_key(probe),
        Order::ReceiveQueue => sockets.sort_by_key(|socket| Reverse(socket.receive_queue)),
        Order::SendQueue => sockets.sort_by_key(|socket| Reverse(socket.send_queue)),
        Order::Pid => sockets.sort_by_cached_key(pid),
    }
}

#[cfg(test)]
mod tests {
    use keepalive_ebpf::{Known, TcpSample};

    use super::*;
    use crate::core::kernel::state;

    const HZ: u32 = 250;

    /// The inode numbers after sorting; their processes are in the reverse order, 3 has none.
    fn sorted(order: Order) -> [u64; 3] {
        let socket = |inode: u64, seconds: u32| {
            let mut socket = Snapshot::default();
            socket.id.inode = inode;
            socket.id.state = state::ESTABLISHED;
            socket.known = Known::all();
            socket.sample = TcpSample {
                jiffies: 100_000,
                rcv_tstamp: 100_000 - seconds * HZ,
                expires: 100_000 + u64::from(seconds * HZ),
                ..TcpSample::default()
            };
            socket
        };
        let mut sockets = [socket(1, 20), socket(2, 10), socket(3, 30)];
        (sockets[0].receive_queue, sockets[1].send_queue) = (1, 1);
        (sockets[0].id.local_port, sockets[1].id.peer_port) = (1, 1);
        (sockets[0].id.keepopen, sockets[1].id.keepopen) = (true, true);
        (
            sockets[0].sample.timer_pending,
            sockets[1].sample.timer_pending,
        ) = (true, true);
        sockets[1].id.state = state::LISTEN;
        sockets[2].sample.rcv_tstamp = 0;
        sort(&mut sockets, order, HZ, |inode| {
            (inode < 3).then_some(3 - inode as u32)
        });
        sockets.map(|socket| socket.id.inode)
    }

    #[test]
    fn the_most_urgent_is_first_and_the_unknown_last() {
        for (order, expected) in [
            (Order::State, [1, 3, 2]),
            (Order::Local, [2, 3, 1]),
            (Order::Peer, [1, 3, 2]),
            (Order::Silence, [1, 2, 3]),
            (Order::Timer, [2, 1, 3]),
            (Order::Probe, [2, 1, 3]),
            (Order::ReceiveQueue, [1, 2, 3]),
            (Order::SendQueue, [2, 1, 3]),
            (Order::Pid, [2, 1, 3]),
        ] {
            assert_eq!(sorted(order), expected, "{order:?}");
        }
    }
}
