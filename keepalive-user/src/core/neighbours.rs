//! # The neighbours of a connection
//!
//! What the other sockets and the addresses of the network namespaces show of it: where its peer is, and in
//! which accept queue it waits.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use keepalive_ebpf::{Identity, Snapshot, SnapshotKind};

use crate::core::{
    event::{AcceptQueue, Endpoint, PeerPlace, Process},
    kernel::state,
};

/// An address, IPv4 as IPv4-mapped IPv6, and a port.
type End = ([u8; 16], u16);

/// All connections and listeners of some network namespaces, and their addresses.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// Local and peer end of every connection. Without the namespace: an end in another one is here, too.
    pairs: HashSet<(End, End)>,
    /// By namespace and peer end: the local end, and the inode number.
    by_peer: HashMap<(u32, End), Vec<(End, u64)>>,
    /// By namespace and port.
    listeners: HashMap<(u32, u16), Vec<Listener>>,
    addresses: HashSet<(u32, IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Listener {
    address: [u8; 16],
    inode: u64,
    length: u32,
    most: u32,
}

impl Neighbours {
    /// Adds a socket.
    pub fn add(&mut self, socket: &Snapshot) {
        let id = &socket.id;
        if socket.kind != SnapshotKind::Socket {
            return;
        }
        if id.state == state::LISTEN {
            let listeners = self.listeners.entry((id.netns, id.local_port)).or_default();
            listeners.push(Listener {
                address: id.local,
                inode: id.inode,
                length: socket.receive_queue,
                most: socket.send_queue,
            });
        } else if id.peer_port != 0 {
            let (local, peer) = ends(id);
            self.pairs.insert((local, peer));
            let peers = self.by_peer.entry((id.netns, peer)).or_default();
            peers.push((local, id.inode));
        }
    }

    /// Adds the addresses of a namespace.
    pub fn add_addresses(&mut self, netns: u32, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses
            .into_iter()
            .map(|address| (netns, address.to_canonical()));
        self.addresses.extend(addresses);
    }

    /// Where the peer of a connection is; `None` if it has none. `owner` resolves the process that holds a
    /// socket by its inode number.
    pub fn peer(
        &self,
        id: &Identity,
        owner: impl FnOnce(u64) -> Option<Arc<Process>>,
    ) -> Option<PeerPlace> {
        if id.peer_port == 0 || id.state == state::LISTEN {
            return None;
        }
        let (local, peer) = ends(id);
        let address = Ipv6Addr::from(id.peer).to_canonical();
        // An own address may lead elsewhere, too (DNAT, IPVS): there must be a listener for it.
        let is_own = address.is_loopback()
            || id.peer == id.local
            || (self.addresses.contains(&(id.netns, address))
                && self.listeners.contains_key(&(id.netns, id.peer_port)));
        let is_mirrored = self.pairs.contains(&(peer, local));
        // An own address of the host may be redirected, too.
        Some(match self.proxy(id) {
            Some((local, inode)) if !is_mirrored => PeerPlace::Proxy {
                local: endpoint(local),
                process: owner(inode),
            },
            _ if is_mirrored || is_own => PeerPlace::Here,
            _ => PeerPlace::Elsewhere,
        })
    }

    /// The proxy's end of a connection that was redirected to it (REDIRECT, DNAT to an address of this
    /// namespace): an accepted socket whose peer is our local end, and whose own local end is not our peer.
    fn proxy(&self, id: &Identity) -> Option<(End, u64)> {
        // Whatever connects to a port on which this namespace listens is its client, not its proxy.
        if self.listener(id.netns, id.local_port, id.local).is_some() {
            return None;
        }
        let (local, _) = ends(id);
        let connected = self.by_peer.get(&(id.netns, local))?;
        let is_proxy = |(end, _): &&(End, u64)| {
            // Ports may be reused: this one's peer is another connection of ours.
            !self.pairs.contains(&(local, *end)) && self.listener(id.netns, end.1, end.0).is_some()
        };
        connected.iter().find(is_proxy).copied()
    }

    /// The queue in which a connection waits to be accepted. `owner` resolves the process that holds a socket.
    pub fn accept_queue(
        &self,
        id: &Identity,
        owner: impl FnOnce(u64) -> Option<Arc<Process>>,
    ) -> Option<AcceptQueue> {
        let first = self.listener(id.netns, id.local_port, id.local)?;
        let all = self.listeners.get(&(id.netns, id.local_port))?;
        let same = || all.iter().filter(|other| other.address == first.address);
        let is_only = same().count() == 1;
        Some(AcceptQueue {
            listener: endpoint((first.address, id.local_port)),
            process: is_only.then(|| owner(first.inode)).flatten(),
            length: same().map(|listener| listener.length).sum(),
            most: same().map(|listener| listener.most).sum(),
        })
    }

    /// The listener for an address and a port: on that address, else on all (`inet_lookup_listener`).
    fn listener(&self, netns: u32, port: u16, address: [u8; 16]) -> Option<&Listener> {
        let listeners = self.listeners.get(&(netns, port))?;
        let is_any = |listener: &&Listener| {
            Ipv6Addr::from(listener.address)
                .to_canonical()
                .is_unspecified()
        };
        let exact = listeners
            .iter()
            .find(|listener| listener.address == address);
        exact.or_else(|| listeners.iter().find(is_any))
    }
}

fn ends(id: &Identity) -> (End, End) {
    ((id.local, id.local_port), (id.peer, id.peer_port))
}

fn endpoint((address, port): End) -> Endpoint {
    Endpoint {
        address: Ipv6Addr::from(address).to_canonical(),
        port,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn socket(state: u8, local: (&str, u16), peer: (&str, u16), inode: u64) -> Snapshot {
        let octets = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address).octets(),
            IpAddr::V6(address) => address.octets(),
        };
        Snapshot {
            id: Identity {
                netns: 1,
                state,
                local: octets(local.0),
                local_port: local.1,
                peer: octets(peer.0),
                peer_port: peer.1,
                inode,
                ..Identity::default()
            },
            receive_queue: 2,
            send_queue: 5,
            ..Snapshot::default()
        }
    }

    fn connected(local: (&str, u16), peer: (&str, u16)) -> Snapshot {
        socket(state::ESTABLISHED, local, peer, 7)
    }

    fn listening(address: &str, port: u16, inode: u64) -> Snapshot {
        socket(state::LISTEN, (address, port), ("0.0.0.0", 0), inode)
    }

    fn named(inode: u64) -> Option<Arc<Process>> {
        let pid = u32::try_from(inode).unwrap();
        let comm = String::from("envoy");
        Some(Arc::new(Process { pid, comm }))
    }

    fn around(sockets: &[Snapshot]) -> Neighbours {
        let mut around = Neighbours::default();
        sockets.iter().for_each(|socket| around.add(socket));
        around
    }

    fn place(around: &Neighbours, socket: &Snapshot) -> PeerPlace {
        around.peer(&socket.id, named).unwrap()
    }

    #[test]
    fn both_ends_are_here() {
        let client = connected(("10.0.0.1", 4000), ("10.0.0.2", 80));
        let server = connected(("10.0.0.2", 80), ("10.0.0.1", 4000));
        assert_eq!(place(&around(&[client]), &client), PeerPlace::Elsewhere);
        assert_eq!(place(&around(&[client, server]), &client), PeerPlace::Here);
        let mut around = around(&[client]);
        around.add_addresses(2, [IpAddr::from([10, 0, 0, 2])]);
        assert_eq!(place(&around, &client), PeerPlace::Elsewhere);
        around.add_addresses(1, ["::ffff:10.0.0.2".parse().unwrap()]);
        assert_eq!(place(&around, &client), PeerPlace::Elsewhere, "DNAT");
        around.add(&listening("10.0.0.2", 80, 5));
        assert_eq!(place(&around, &client), PeerPlace::Here);
        let mapped = connected(("::ffff:127.0.0.1", 80), ("::ffff:127.0.0.1", 4000));
        assert_eq!(place(&around, &mapped), PeerPlace::Here);
        assert_eq!(around.peer(&listening("::", 80, 1).id, named), None);
    }

    #[test]
    fn a_redirected_connection() {
        let client = connected(("10.0.0.1", 4000), ("192.0.2.1", 443));
        let accepted = socket(
            state::ESTABLISHED,
            ("127.0.0.1", 15_001),
            ("10.0.0.1", 4000),
            9,
        );
        let proxy = listening("::", 15_001, 3);
        let found = place(&around(&[client, accepted, proxy]), &client);
        let expected = PeerPlace::Proxy {
            local: endpoint((accepted.id.local, 15_001)),
            process: named(9),
        };
        assert_eq!(found, expected);
        // Nothing listens there: that socket is not an accepted one.
        let place_of = |sockets: &[Snapshot]| place(&around(sockets), &client);
        assert_eq!(place_of(&[client, accepted]), PeerPlace::Elsewhere);
        // The local port is used for two connections.
        let reused = connected(("10.0.0.1", 4000), ("127.0.0.1", 15_001));
        let sockets = [client, accepted, proxy, reused];
        assert_eq!(place_of(&sockets), PeerPlace::Elsewhere);
    }

    /// Two clients of one server: one of them is on this host, and no proxy of the other.
    #[test]
    fn a_client_is_not_a_proxy() {
        let remote = connected(("10.0.0.1", 80), ("192.0.2.1", 4000));
        let local = connected(("10.0.0.9", 80), ("10.0.0.1", 80));
        let sockets = [remote, local, listening("0.0.0.0", 80, 3)];
        assert_eq!(place(&around(&sockets), &remote), PeerPlace::Elsewhere);
    }

    #[test]
    fn the_queue_of_a_listener() {
        let waiting = socket(state::ESTABLISHED, ("10.0.0.1", 80), ("10.0.0.2", 4000), 0);
        let queue = |sockets: &[Snapshot]| around(sockets).accept_queue(&waiting.id, named);
        assert_eq!(queue(&[listening("10.0.0.3", 80, 3)]), None);
        let any = queue(&[listening("::", 80, 3), listening("::", 81, 4)]).unwrap();
        assert_eq!((any.length, any.most), (2, 5));
        assert_eq!(
            (any.listener.to_string(), any.process),
            ("[::]:80".to_owned(), named(3))
        );
        let exact = queue(&[listening("0.0.0.0", 80, 3), listening("10.0.0.1", 80, 4)]).unwrap();
        assert_eq!(exact.process, named(4));
        // SO_REUSEPORT: either may have it.
        let two = queue(&[listening("::", 80, 3), listening("::", 80, 4)]).unwrap();
        assert_eq!((two.length, two.most, two.process), (4, 10, None));
    }
}
