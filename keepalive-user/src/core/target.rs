//! How a user names a socket: by owner, port, ends or cookie.

use std::{net::SocketAddr, str::FromStr};

use anyhow::{Context, Result, bail, ensure};

use super::event::{Cookie, Endpoint, ListedSocket, MatchedEnd, Socket, TcpState};

/// A socket, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Pid(u32),
    /// A port at either end.
    Port(u16),
    /// An address and port at either end.
    Endpoint(SocketAddr),
    /// The local and the peer end.
    Pair(SocketAddr, SocketAddr),
    /// As in JSON.
    Cookie(Cookie),
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(cookie) = text.strip_prefix("sk:") {
            let cookie = u64::from_str_radix(cookie, 16)
                .with_context(|| format!("{cookie:?} is not a hexadecimal cookie"))?;
            return Ok(Self::Cookie(Cookie(cookie)));
        }
        if let Some(port) = text.strip_prefix(':') {
            let port = port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .with_context(|| format!("{port:?} is not a port (1 to 65535)"))?;
            return Ok(Self::Port(port));
        }
        if let Ok(pid) = text.parse() {
            ensure!(pid != 0, "0 is not the PID of a process");
            return Ok(Self::Pid(pid));
        }
        let address = |text: &str| {
            text.parse::<SocketAddr>().with_context(|| {
                format!("{text:?} is not ADDR:PORT (IPv6: [ADDR]:PORT); names are not resolved")
            })
        };
        match text.split_once('-') {
            Some((local, peer)) => Ok(Self::Pair(address(local)?, address(peer)?)),
            None if text.contains(':') => {
                let end = address(text)?;
                ensure!(
                    end.port() != 0,
                    "port 0 of {text} is not a port (1 to 65535)"
                );
                Ok(Self::Endpoint(end))
            }
            None => bail!("give a PID, :PORT, ADDR:PORT, LOCAL-PEER or sk:COOKIE"),
        }
    }
}

impl Target {
    /// Whether it names this socket.
    pub fn is(&self, row: &ListedSocket) -> bool {
        match self {
            Self::Pid(pid) => row.pids.contains(pid),
            Self::Port(_) | Self::Endpoint(_) | Self::Pair(..) | Self::Cookie(_) => {
                self.names(&row.socket)
            }
        }
    }

    /// The end of this socket that it names, if it names one end.
    pub fn matched(&self, socket: &Socket) -> Option<MatchedEnd> {
        let [local, peer] = [&socket.local, &socket.peer].map(|end| match self {
            Self::Port(port) => end.port == *port,
            Self::Endpoint(address) => is(end, address),
            Self::Pid(_) | Self::Pair(..) | Self::Cookie(_) => false,
        });
        match (local, peer) {
            (true, true) => Some(MatchedEnd::Both),
            (true, false) => Some(MatchedEnd::Local),
            (false, true) => Some(MatchedEnd::Peer),
            (false, false) => None,
        }
    }

    /// Removes the listeners from sockets that it names, if there are others: a server has a listener, too.
    pub fn prefer_connections(&self, named: &mut Vec<(usize, ListedSocket)>) {
        let is_listener = |(_, row): &(usize, ListedSocket)| row.socket.state == TcpState::Listen;
        let is_ambiguous = match self {
            Self::Pid(_) | Self::Port(_) | Self::Endpoint(_) => !named.iter().all(is_listener),
            Self::Pair(..) | Self::Cookie(_) => false,
        };
        if is_ambiguous {
            named.retain(|it| !is_listener(it));
        }
    }

    /// Whether it names this socket, by its ends or its cookie.
    pub fn names(&self, socket: &Socket) -> bool {
        let Socket {
            local,
            peer,
            cookie,
            ..
        } = socket;
        match self {
            Self::Pid(_) => false,
            Self::Port(_) | Self::Endpoint(_) => self.matched(socket).is_some(),
            Self::Pair(ours, theirs) => is(local, ours) && is(peer, theirs),
            Self::Cookie(wanted) => *cookie == Some(*wanted),
        }
    }
}

fn is(end: &Endpoint, address: &SocketAddr) -> bool {
    (end.address, end.port) == (address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let of = |text: &str| text.parse::<Target>();
        assert_eq!(of("4711").unwrap(), Target::Pid(4711));
        assert_eq!(of(":22").unwrap(), Target::Port(22));
        assert_eq!(of("sk:00ff").unwrap(), Target::Cookie(Cookie(0xff)));
        let v6 = "[::1]:22".parse().unwrap();
        assert_eq!(of("[::1]:22").unwrap(), Target::Endpoint(v6));
        assert_eq!(of("[::1]:22-[::1]:22").unwrap(), Target::Pair(v6, v6));
        for bad in [
            "",
            ":",
            ":99999",
            "sk:xyz",
            "host:22",
            "1.2.3.4",
            "1.2.3.4:1-x",
            ":0",
            "0",
            "1.2.3.4:0",
            "-1",
            "x",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
