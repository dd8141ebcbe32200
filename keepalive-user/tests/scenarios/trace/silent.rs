//! Connections where neither end receives anything: each of their sockets has a dead peer.

use std::net::SocketAddr;

use anyhow::Result;

use crate::kit::socket::{Keepalive, LOCALHOST, Tcp};
use crate::kit::sys;

/// Both ends of some connections over the loopback.
pub struct Silent(Vec<(Tcp, Tcp)>);

impl Silent {
    /// Connects, sets the keepalive values on both ends without switching it on, and makes both
    /// ends drop all segments.
    pub fn connect(connections: usize, keepalive: Keepalive) -> Result<Self> {
        sys::allow_open_files(2 * connections as u64 + 100)?;
        let listener = Tcp::new(LOCALHOST)?;
        listener.listen(LOCALHOST)?;
        let to = SocketAddr::new(LOCALHOST, listener.local()?.port());
        let connect = |_| {
            let client = Tcp::new(LOCALHOST)?;
            client.connect(to)?;
            let server = listener.accept()?;
            for end in [&client, &server] {
                end.set_times(keepalive)?;
                end.reset_on_close()?;
                end.deafen()?;
            }
            Ok((client, server))
        };
        (0..connections)
            .map(connect)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Switches keepalive on for all sockets in quick succession: one system call each.
    pub fn switch_on(&self) -> Result<()> {
        self.0.iter().try_for_each(|(client, server)| {
            client.switch_keepalive(true)?;
            server.switch_keepalive(true)
        })
    }
}
