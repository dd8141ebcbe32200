//! What a listing shows around a socket: whether a listener accepted it, and where the caller is.

use std::collections::BTreeMap;

use keepalive_ebpf::Identity;

use crate::core::{
    event::{ListedSocket, TcpState},
    kernel::state,
};

/// Which end of a connection a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Listens,
    /// There is a listener on its local port.
    Accepted,
    /// There is no listener on its local port, and no other connection with it.
    Opened,
    /// There is no listener, but several connections: it may have been closed. Or nothing is known.
    Unknown,
}

/// The ports of all listed sockets, and the caller's network namespace.
#[derive(Debug, Default)]
pub struct Surroundings {
    here: Option<u32>,
    ports: BTreeMap<(u32, u16), Port>,
}

#[derive(Debug, Default)]
struct Port {
    listens: bool,
    /// Those that a process may hold.
    connections: u32,
    /// Connections with SO_KEEPALIVE on.
    kept: u32,
}

impl Surroundings {
    /// `here` is the caller's network namespace, if known.
    pub fn new<'a>(here: Option<u32>, sockets: impl Iterator<Item = &'a Identity>) -> Self {
        let mut ports: BTreeMap<(u32, u16), Port> = BTreeMap::new();
        for socket in sockets {
            let port = ports.entry((socket.netns, socket.local_port)).or_default();
            match socket.state {
                state::LISTEN => port.listens = true,
                _ if socket.orphan => {}
                state::TIME_WAIT | state::CLOSE => {}
                _ => {
                    port.connections += 1;
                    port.kept += u32::from(socket.keepopen);
                }
            }
        }
        Self { here, ports }
    }

    /// Whether this is the caller's network namespace.
    pub fn is_here(&self, netns: u32) -> bool {
        self.here == Some(netns)
    }

    pub fn role(&self, socket: &ListedSocket) -> Role {
        if socket.socket.state == TcpState::Listen {
            return Role::Listens;
        }
        match self.port(socket) {
            Some(port) if port.listens => Role::Accepted,
            Some(port) if port.connections > 1 => Role::Unknown,
            Some(_) => Role::Opened,
            None => Role::Unknown,
        }
    }

    /// How many connections have the local port of a socket, and how many of them have keepalive on.
    pub fn connections(&self, listener: &ListedSocket) -> (u32, u32) {
        self.port(listener)
            .map_or((0, 0), |port| (port.connections, port.kept))
    }

    fn port(&self, socket: &ListedSocket) -> Option<&Port> {
        let socket = &socket.socket;
        self.ports.get(&(socket.netns, socket.local.port))
    }
}
