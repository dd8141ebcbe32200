//! Servers, proxies and clients with settings of their own.

use super::{Program, Setting};

const PGBOUNCER: Option<Setting> = Setting::values(
    "pgbouncer.ini, [pgbouncer]",
    &[
        "tcp_keepalive = 1",
        "tcp_keepidle = {idle}",
        "tcp_keepintvl = {interval}",
        "tcp_keepcnt = {count}",
    ],
);
/// OpenSSH sets SO_KEEPALIVE and nothing else (`set_keepalive` in sshd.c, `ssh_create_socket`).
const SSHD_NOTE: &str =
    "`ClientAliveInterval {idle}` sends data instead, so that the connection is not idle";
const SSH_NOTE: &str =
    "`ServerAliveInterval {idle}` sends data instead, so that the connection is not idle";
const MYSQL: &str = "dev.mysql.com/doc/refman/8.4 (no system variable for it); vio_keepalive() in vio/viosocket.cc, MySQL 8.4";
const REDIS_NOTE: &str = "the interval is a third of it, the count 3";

pub const ROWS: &[Program] = &[
    Program {
        names: &["nginx"],
        port: None,
        label: "nginx",
        accepted: Setting::inherited(Setting::values(
            "nginx.conf, on every listen of this port",
            &["so_keepalive={idle}s:{interval}s:{count}"],
        )),
        opened: Setting::switch(
            "nginx.conf, where proxy_pass is (fastcgi_, grpc_, memcached_, scgi_ and uwsgi_socket_keepalive for theirs)",
            &["proxy_socket_keepalive on;"],
        ),
        source: "nginx.org/en/docs: ngx_http_core_module (listen), ngx_http_proxy_module, ngx_stream_proxy_module (1.15.6)",
    },
    Program {
        names: &["haproxy"],
        port: None,
        label: "HAProxy",
        accepted: Setting::values(
            "haproxy.cfg, frontend or defaults",
            &[
                "option clitcpka",
                "clitcpka-idle {idle}s",
                "clitcpka-intvl {interval}s",
                "clitcpka-cnt {count}",
            ],
        ),
        opened: Setting::values(
            "haproxy.cfg, backend or defaults",
            &[
                "option srvtcpka",
                "srvtcpka-idle {idle}s",
                "srvtcpka-intvl {interval}s",
                "srvtcpka-cnt {count}",
            ],
        ),
        source: "docs.haproxy.org/2.6/configuration.html (clitcpka-idle and the others: 2.3)",
    },
    Program {
        names: &["envoy"],
        port: None,
        label: "Envoy",
        accepted: Setting::inherited(Setting::values(
            "the listener",
            &[
                "socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}, \
                 {level: 6, name: 4, int_value: {idle}, state: STATE_PREBIND}, \
                 {level: 6, name: 5, int_value: {interval}, state: STATE_PREBIND}, \
                 {level: 6, name: 6, int_value: {count}, state: STATE_PREBIND}]",
            ],
        )),
        opened: Setting::values(
            "the cluster",
            &[
                "upstream_connection_options: {tcp_keepalive: {keepalive_probes: {count}, \
               keepalive_time: {idle}, keepalive_interval: {interval}}}",
            ],
        ),
        source: "envoyproxy.io/docs: config.core.v3.SocketOption, config.cluster.v3.UpstreamConnectionOptions (not run in a test)",
    },
    Program {
        names: &["apache2", "httpd"],
        port: None,
        label: "Apache httpd",
        accepted: Setting::inherited(Setting::always_on()),
        opened: Setting::switch(
            "httpd.conf, a parameter of every ProxyPass",
            &["keepalive=On"],
        ),
        source: "httpd.apache.org/docs/2.4/mod/mod_proxy.html; make_sock() in server/listen.c, 2.4",
    },
    Program {
        names: &["sshd", "sshd-session", "sshd-auth"],
        port: None,
        label: "sshd",
        accepted: Setting::noted(
            Setting::switch("sshd_config", &["TCPKeepAlive yes"]),
            SSHD_NOTE,
        ),
        opened: None,
        source: "man.openbsd.org/sshd_config (9.2)",
    },
    Program {
        names: &["ssh"],
        port: None,
        label: "ssh",
        accepted: None,
        opened: Setting::noted(
            Setting::switch("ssh_config", &["TCPKeepAlive yes"]),
            SSH_NOTE,
        ),
        source: "man.openbsd.org/ssh_config (9.2)",
    },
    Program {
        names: &["postgres"],
        port: None,
        label: "PostgreSQL",
        accepted: Setting::values(
            "postgresql.conf",
            &[
                "tcp_keepalives_idle = {idle}",
                "tcp_keepalives_interval = {interval}",
                "tcp_keepalives_count = {count}",
            ],
        ),
        opened: Setting::values(
            "primary_conninfo of a standby, or the options of a foreign server",
            &[
                "keepalives=1 keepalives_idle={idle} keepalives_interval={interval} keepalives_count={count}",
            ],
        ),
        source: "postgresql.org/docs/15: runtime-config-connection, libpq-connect",
    },
    Program {
        names: &["pgbouncer"],
        port: None,
        label: "PgBouncer",
        accepted: PGBOUNCER,
        opened: PGBOUNCER,
        source: "pgbouncer.org/config.html (1.18)",
    },
    Program {
        names: &[
            "psql",
            "pg_dump",
            "pg_restore",
            "pg_basebackup",
            "pg_receivewal",
            "pg_recvlogical",
        ],
        port: None,
        label: "libpq",
        accepted: None,
        opened: LIBPQ,
        source: LIBPQ_SOURCE,
    },
    Program {
        names: &["mariadbd"],
        port: None,
        label: "MariaDB",
        accepted: Setting::values(
            "my.cnf, [mariadb]",
            &[
                "tcp_keepalive_time = {idle}",
                "tcp_keepalive_interval = {interval}",
                "tcp_keepalive_probes = {count}",
            ],
        ),
        opened: Setting::always_on(),
        source: "mariadb.com/kb/en/server-system-variables (10.3.3)",
    },
    Program {
        names: &["mysqld"],
        port: None,
        label: "MySQL",
        accepted: Setting::noted(
            Setting::always_on(),
            "MariaDB under this name (before 10.5) has tcp_keepalive_time, tcp_keepalive_interval and tcp_keepalive_probes",
        ),
        opened: Setting::always_on(),
        source: MYSQL,
    },
    Program {
        names: &["mysql", "mariadb", "mysqldump", "mariadb-dump"],
        port: None,
        label: "MySQL client",
        accepted: None,
        opened: Setting::always_on(),
        source: MYSQL,
    },
    Program {
        names: &["redis-server"],
        port: None,
        label: "Redis",
        accepted: Setting::noted(
            Setting::values("redis.conf", &["tcp-keepalive {idle}"]),
            REDIS_NOTE,
        ),
        opened: None,
        source: "redis.io/docs: redis.conf, tcp-keepalive; anetKeepAlive() in src/anet.c, 7.0",
    },
    Program {
        names: &["valkey-server"],
        port: None,
        label: "Valkey",
        accepted: Setting::noted(
            Setting::values("valkey.conf", &["tcp-keepalive {idle}"]),
            REDIS_NOTE,
        ),
        opened: None,
        source: "valkey.io/topics/valkey.conf, tcp-keepalive; anetKeepAlive() in src/anet.c, 8.0",
    },
    Program {
        names: &["mongod", "mongos"],
        port: None,
        label: "MongoDB",
        accepted: Setting::noted(Setting::always_on(), MONGODB),
        opened: Setting::noted(Setting::always_on(), MONGODB),
        source: "mongodb.com/docs/manual/faq/diagnostics, TCP keepalive (8.0)",
    },
    Program {
        names: &["beam.smp", "beam"],
        port: None,
        label: "RabbitMQ",
        accepted: Setting::inherited(Setting::switch(
            "rabbitmq.conf",
            &["tcp_listen_options.keepalive = true"],
        )),
        opened: None,
        source: "rabbitmq.com/docs/networking, TCP keepalives (3.10)",
    },
    Program {
        names: &["systemd"],
        port: None,
        label: "systemd",
        accepted: Setting::inherited(Setting::values(
            "the .socket unit, [Socket]",
            &[
                "KeepAlive=yes",
                "KeepAliveTimeSec={idle}",
                "KeepAliveIntervalSec={interval}",
                "KeepAliveProbes={count}",
            ],
        )),
        opened: None,
        source: "freedesktop.org/software/systemd/man/systemd.socket.html (252)",
    },
    Program {
        names: &["curl"],
        port: None,
        label: "curl",
        accepted: None,
        opened: Setting::noted(
            Setting::values("the command line", &["--keepalive-time {idle}"]),
            "the interval is the same, and the count is the sysctl's or --keepalive-cnt (8.9)",
        ),
        source: "curl.se/docs/manpage.html; libcurl: CURLOPT_TCP_KEEPALIVE, CURLOPT_TCP_KEEPIDLE, CURLOPT_TCP_KEEPINTVL",
    },
];

const MONGODB: &str = "it lowers values above 300 s to 300 s itself";
const LIBPQ_SOURCE: &str = "postgresql.org/docs/15/libpq-connect.html";
const LIBPQ: Option<Setting> = Setting::values(
    "the connection string",
    &[
        "keepalives=1 keepalives_idle={idle} keepalives_interval={interval} keepalives_count={count}",
    ],
);

/// Connections to a port of PostgreSQL, of programs without a row above.
pub const LIBPQ_BY_PORT: Program = Program {
    names: &[],
    port: Some(5432),
    label: "libpq, if the peer is PostgreSQL",
    accepted: None,
    opened: LIBPQ,
    source: LIBPQ_SOURCE,
};
