//! What a program in a known language calls, and its common libraries, recognised by the port.

use super::{Program, Setting, servers::LIBPQ_BY_PORT};

const NODE: Option<Setting> = Setting::noted(
    Setting::values("the program", &["socket.setKeepAlive(true, {idle}000)"]),
    "libuv sets the interval to 1 s and the count to 10",
);
const PYTHON: Option<Setting> = Setting::inherited(Setting::values(
    "the program",
    &[
        "sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)",
        "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, {idle})",
        "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, {interval})",
        "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, {count})",
    ],
));
const JAVA: Option<Setting> = Setting::values(
    "the program, on each socket",
    &[
        "socket.setOption(StandardSocketOptions.SO_KEEPALIVE, true)",
        "socket.setOption(ExtendedSocketOptions.TCP_KEEPIDLE, {idle})",
        "socket.setOption(ExtendedSocketOptions.TCP_KEEPINTERVAL, {interval})",
        "socket.setOption(ExtendedSocketOptions.TCP_KEEPCOUNT, {count})",
    ],
);
const DOTNET: Option<Setting> = Setting::values(
    "the program, on each socket",
    &[
        "socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true)",
        "socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveTime, {idle})",
        "socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveInterval, {interval})",
        "socket.SetSocketOption(SocketOptionLevel.Tcp, SocketOptionName.TcpKeepAliveRetryCount, {count})",
    ],
);

pub const ROWS: &[Program] = &[
    Program {
        names: &["java"],
        port: Some(9092),
        label: "Kafka, if that is the port's service",
        accepted: Setting::always_on(),
        opened: Setting::always_on(),
        source: "setKeepAlive(true) in SocketServer.scala and Selector.java, Kafka 3.7; no configuration has the values",
    },
    Program {
        names: &["java"],
        port: Some(5432),
        label: "pgJDBC, if the peer is PostgreSQL",
        accepted: None,
        opened: Setting::switch("the connection URL", &["tcpKeepAlive=true"]),
        source: "jdbc.postgresql.org/documentation/use (42)",
    },
    LIBPQ_BY_PORT,
    Program {
        names: &["java"],
        port: None,
        label: "Java",
        accepted: JAVA,
        opened: JAVA,
        source: "docs.oracle.com: jdk.net.ExtendedSocketOptions (11)",
    },
    Program {
        // From 23.7 on the main thread names itself, and later with a prefix (nodejs/node#56416, #61307).
        names: &["node", "nodejs", "MainThread", "node-MainThread"],
        port: None,
        label: "Node.js",
        accepted: Setting::noted(
            Setting::values(
                "the program",
                &["net.createServer({keepAlive: true, keepAliveInitialDelay: {idle}000})"],
            ),
            "libuv sets the interval to 1 s and the count to 10",
        ),
        opened: NODE,
        source: "nodejs.org/api/net.html (20); uv__tcp_keepalive() in libuv's src/unix/tcp.c",
    },
    Program {
        names: &["python#"],
        port: None,
        label: "Python",
        accepted: PYTHON,
        opened: PYTHON,
        source: "docs.python.org/3/library/socket.html",
    },
    Program {
        names: &["dotnet"],
        port: None,
        label: ".NET",
        accepted: DOTNET,
        opened: DOTNET,
        source: "learn.microsoft.com/dotnet/api/system.net.sockets.socketoptionname (.NET 6)",
    },
];
