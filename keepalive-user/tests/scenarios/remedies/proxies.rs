//! Proxies: they accept connections and open others.

use super::run::{FAR_PORT, PORT, Place, Program, Slot, Values, command, nothing, unprivileged};
use crate::kit::link::{FAR_ADDRESS, NEAR_ADDRESS};

const NGINX: &str = "/usr/sbin/nginx";
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const HAPROXY: &str = "/usr/sbin/haproxy";
const APACHE: &str = "/usr/sbin/apache2";
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";
/// The second listener of nginx.
const HTTP_PORT: u16 = 8081;
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// A startup message of protocol 3.0 for the user and the database "nobody".
const POSTGRESQL_STARTUP: &[u8] = b"\0\0\0\x25\0\x03\0\0user\0nobody\0database\0nobody\0\0";

pub const PROGRAMS: &[Program] = &[
    Program {
        name: "nginx",
        slots: &[
            Slot {
                name: "listen",
                place: "on every listen",
                before: "",
                separator: " ",
            },
            Slot {
                name: "proxy",
                place: "where proxy_pass is",
                before: "",
                separator: "\n",
            },
        ],
        sysctls: true,
        prepare: nothing,
        configuration: nginx,
        check: Some(|place, _| command(NGINX, ["-t", "-q", "-c", &place.path("conf")])),
        start: |place, _| command(NGINX, ["-c", &place.path("conf")]),
        connects_to: &[(PORT, b""), (HTTP_PORT, REQUEST)],
        opens: 2,
    },
    Program {
        name: "haproxy",
        slots: &[
            Slot {
                name: "frontend",
                place: "frontend",
                before: "",
                separator: "\n",
            },
            Slot {
                name: "backend",
                place: "backend",
                before: "",
                separator: "\n",
            },
        ],
        sysctls: false,
        prepare: nothing,
        configuration: haproxy,
        check: Some(|place, _| command(HAPROXY, ["-c", "-f", &place.path("conf")])),
        start: |place, _| command(HAPROXY, ["-db", "-f", &place.path("conf")]),
        connects_to: &[(PORT, b"")],
        opens: 1,
    },
    Program {
        name: "apache2",
        slots: &[Slot {
            name: "proxy",
            place: "every ProxyPass",
            before: "",
            separator: " ",
        }],
        sysctls: true,
        prepare: nothing,
        configuration: apache,
        check: Some(|place, _| command(APACHE, ["-t", "-f", &place.path("conf")])),
        start: |place, _| command(APACHE, ["-f", &place.path("conf"), "-D", "FOREGROUND"]),
        connects_to: &[(PORT, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")],
        opens: 1,
    },
    Program {
        name: "pgbouncer",
        slots: &[Slot {
            name: "ini",
            place: "pgbouncer.ini",
            before: "tcp_keepalive = 0",
            separator: "\n",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: pgbouncer,
        check: None,
        start: |place, _| unprivileged(PGBOUNCER, [place.path("conf").as_str()]),
        connects_to: &[(PORT, POSTGRESQL_STARTUP)],
        opens: 1,
    },
];

fn nginx(place: &Place, values: &Values) -> (String, String) {
    let directory = place.directory.display();
    let (listen, proxy) = (values.of("listen"), values.of("proxy"));
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {directory}/{name};\n"))
        .collect();
    let text = format!(
        "daemon off; user root; worker_processes 1;\n\
         error_log {directory}/error; pid {directory}/pid;\n\
         load_module {NGINX_STREAM};\n\
         events {{ worker_connections 64; }}\n\
         stream {{ server {{ listen {NEAR_ADDRESS}:{PORT} {listen};\n\
         proxy_pass {FAR_ADDRESS}:{FAR_PORT}; {proxy} }} }}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen {NEAR_ADDRESS}:{HTTP_PORT} {listen};\n\
         location / {{ proxy_pass http://{FAR_ADDRESS}:{FAR_PORT}; {proxy} }} }} }}\n"
    );
    ("conf".to_owned(), text)
}

fn haproxy(_: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "defaults\nmode tcp\ntimeout connect 5s\ntimeout client 1h\ntimeout server 1h\n\
         frontend in\nbind {NEAR_ADDRESS}:{PORT}\ndefault_backend out\n{}\n\
         backend out\nserver far {FAR_ADDRESS}:{FAR_PORT}\n{}\n",
        values.of("frontend"),
        values.of("backend")
    );
    ("conf".to_owned(), text)
}

fn apache(place: &Place, values: &Values) -> (String, String) {
    let directory = place.directory.display();
    let modules: String = ["mpm_prefork", "authz_core", "proxy", "proxy_http"]
        .iter()
        .map(|name| format!("LoadModule {name}_module modules/mod_{name}.so\n"))
        .collect();
    let text = format!(
        "ServerRoot /usr/lib/apache2\n{modules}ServerName localhost\n\
         Listen {NEAR_ADDRESS}:{PORT}\nUser nobody\nGroup nogroup\n\
         DefaultRuntimeDir {directory}\nPidFile {directory}/pid\nErrorLog {directory}/error\n\
         StartServers 1\nTimeout 600\nProxyPass / http://{FAR_ADDRESS}:{FAR_PORT}/ {}\n",
        values.of("proxy")
    );
    ("conf".to_owned(), text)
}

fn pgbouncer(_: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "[databases]\nnobody = host={FAR_ADDRESS} port={FAR_PORT} user=nobody\n\
         [pgbouncer]\nlisten_addr = {NEAR_ADDRESS}\nlisten_port = {PORT}\nunix_socket_dir =\n\
         auth_type = any\nserver_connect_timeout = 600\nquery_wait_timeout = 600\n{}\n",
        values.of("ini")
    );
    ("conf".to_owned(), text)
}
