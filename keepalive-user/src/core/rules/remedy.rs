//! The exact remedy: the socket option with its value, and, for known programs, the corresponding
//! setting of the program.

use crate::core::{
    event::{ListedSocket, Origin, Sysctl},
    format::name,
    kernel::KEEPALIVE_MAX_S,
};

/// Seconds, seconds, count.
#[derive(Clone, Copy)]
pub struct Advice {
    pub idle: u64,
    pub interval: u64,
    pub count: u64,
}

impl Advice {
    /// A dead peer is detected after two minutes.
    pub const ORDINARY: Self = Self {
        idle: 60,
        interval: 10,
        count: 6,
    };

    /// Half of a middlebox's idle timeout, so that one lost probe does no harm.
    pub fn within(timeout_ms: u64) -> Self {
        let idle = (timeout_ms / 2000).clamp(1, KEEPALIVE_MAX_S.into());
        Self {
            idle,
            interval: (idle / 6).max(1),
            ..Self::ORDINARY
        }
    }

    /// Switches keepalive on.
    pub fn switch_on(self, socket: &ListedSocket) -> String {
        let Self {
            idle,
            interval,
            count,
        } = self;
        format!(
            "setsockopt SO_KEEPALIVE = 1, TCP_KEEPIDLE = {idle}, TCP_KEEPINTVL = {interval}, \
             TCP_KEEPCNT = {count}{}",
            self.of_program(socket)
        )
    }

    /// The corresponding setting of the socket's program.
    fn of_program(self, socket: &ListedSocket) -> String {
        let comm = socket.process.as_ref().map_or("", |process| &process.comm);
        let by_name = PROGRAMS.iter().find(|(name, _)| comm.starts_with(name));
        let peer = socket.socket.peer.port;
        let by_peer = SERVICES.iter().find(|(port, _)| *port == peer);
        let Some(setting) = by_name
            .map(|(_, setting)| setting)
            .or(by_peer.map(|(_, setting)| setting))
        else {
            return String::new();
        };
        let setting = setting
            .replace("{idle}", &self.idle.to_string())
            .replace("{interval}", &self.interval.to_string())
            .replace("{count}", &self.count.to_string());
        format!("; {setting}")
    }
}

/// Programs by the prefix of their name, and their settings.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "postgres",
        "postgresql.conf: tcp_keepalives_idle = {idle}, tcp_keepalives_interval = {interval}, \
         tcp_keepalives_count = {count}",
    ),
    (
        "pgbouncer",
        "pgbouncer.ini: tcp_keepalive = 1, tcp_keepidle = {idle}, tcp_keepintvl = {interval}, \
         tcp_keepcnt = {count}",
    ),
    ("redis-server", "redis.conf: tcp-keepalive {idle}"),
    ("valkey-server", "valkey.conf: tcp-keepalive {idle}"),
    (
        "nginx",
        "nginx: listen … so_keepalive={idle}s:{interval}s:{count}, and proxy_socket_keepalive on",
    ),
    (
        "haproxy",
        "haproxy: option tcpka, clitcpka-idle {idle}s, srvtcpka-idle {idle}s",
    ),
    (
        "envoy",
        "envoy: tcp_keepalive {keepalive_probes: {count}, keepalive_time: {idle}, \
         keepalive_interval: {interval}}",
    ),
    (
        "sshd",
        "sshd_config: TCPKeepAlive yes, ClientAliveInterval {idle}",
    ),
    (
        "ssh",
        "ssh_config: TCPKeepAlive yes, ServerAliveInterval {idle}",
    ),
    (
        "java",
        "Java: setOption(SO_KEEPALIVE, true), setOption(ExtendedSocketOptions.TCP_KEEPIDLE, {idle})",
    ),
    ("node", "Node.js: socket.setKeepAlive(true, {idle}000)"),
    (
        "python",
        "Python: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, {idle})",
    ),
];

/// Clients by the port they are connected to, for programs whose name does not identify them.
const SERVICES: &[(u16, &str)] = &[(
    5432,
    "libpq: keepalives=1 keepalives_idle={idle} keepalives_interval={interval} \
     keepalives_count={count}; pgjdbc: tcpKeepAlive=true",
)];

/// One option, set where it is set now: on the socket, else by a sysctl of its network namespace.
pub fn option(
    socket: &ListedSocket,
    option: &str,
    sysctl: Sysctl,
    value: u64,
    origin: Option<Origin>,
) -> String {
    match origin {
        Some(Origin::Socket) => format!("setsockopt {option} = {value} (the program sets it now)"),
        Some(Origin::Sysctl) | None => format!(
            "setsockopt {option} = {value}, or sysctl -w net.ipv4.{}={value} in network \
             namespace {}",
            name(sysctl),
            socket.socket.netns
        ),
    }
}
