//! Clients, and programs in languages.

use std::process::Command;

use super::run::{FAR_PORT, PORT, Place, Program, Slot, Values, command, nothing};
use crate::kit::link::{FAR_ADDRESS, NEAR_ADDRESS};

const SSH: &str = "/usr/bin/ssh";
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";
const CURL: &str = "/usr/bin/curl";
const PYTHON: &str = "/usr/bin/python3";
const NODE: &str = "/usr/bin/node";

pub const PROGRAMS: &[Program] = &[
    Program {
        name: "ssh",
        slots: &[Slot {
            name: "conf",
            place: "ssh_config",
            before: "TCPKeepAlive no",
            separator: "\n",
        }],
        sysctls: true,
        prepare: nothing,
        configuration: |_, values| ("conf".to_owned(), values.of("conf").to_owned() + "\n"),
        check: Some(|place, _| {
            let far = FAR_ADDRESS.to_string();
            command(SSH, ["-G", "-F", &place.path("conf"), &far])
        }),
        start: |place, _| {
            let (far, port) = (FAR_ADDRESS.to_string(), FAR_PORT.to_string());
            command(SSH, ["-F", &place.path("conf"), "-p", &port, "-N", &far])
        },
        connects_to: &[],
        opens: 1,
    },
    Program {
        name: "psql",
        slots: &[Slot {
            name: "string",
            place: "the connection string",
            before: "keepalives=0",
            separator: " ",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: unused,
        check: None,
        start: |_, values| {
            let options = values.of("string");
            let string =
                format!("host={FAR_ADDRESS} port={FAR_PORT} user=nobody dbname=nobody {options}");
            command(PSQL, ["-X", &string])
        },
        connects_to: &[],
        opens: 1,
    },
    Program {
        name: "curl",
        slots: &[Slot {
            name: "arguments",
            place: "the command line",
            before: "--no-keepalive",
            separator: " ",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: unused,
        check: None,
        start: |_, values| {
            let mut curl = command(CURL, ["--silent", "--noproxy", "*"]);
            curl.args(values.of("arguments").split(' '));
            curl.arg(format!("http://{FAR_ADDRESS}:{FAR_PORT}/"));
            curl
        },
        connects_to: &[],
        opens: 1,
    },
    Program {
        name: "python_client",
        slots: &[Slot {
            name: "code",
            place: "the program",
            before: "",
            separator: "\n",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: python_client,
        check: None,
        start: python,
        connects_to: &[],
        opens: 1,
    },
    Program {
        name: "python_server",
        slots: &[Slot {
            name: "code",
            place: "the program",
            before: "",
            separator: "\n",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: python_server,
        check: None,
        start: python,
        connects_to: &[(PORT, b"")],
        opens: 0,
    },
    Program {
        name: "node_client",
        slots: &[Slot {
            name: "code",
            place: "the program",
            before: "",
            separator: ";\n",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: node_client,
        check: None,
        start: |place, _| command(NODE, [place.path("script").as_str()]),
        connects_to: &[],
        opens: 1,
    },
    Program {
        name: "node_server",
        slots: &[Slot {
            name: "code",
            place: "the program",
            before: "net.createServer()",
            separator: ";\n",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: node_server,
        check: None,
        start: |place, _| command(NODE, [place.path("script").as_str()]),
        connects_to: &[(PORT, b"")],
        opens: 0,
    },
];

/// Everything is on the command line.
fn unused(_: &Place, _: &Values) -> (String, String) {
    ("unused".to_owned(), String::new())
}

fn python(place: &Place, _: &Values) -> Command {
    command(PYTHON, [place.path("script").as_str()])
}

fn python_client(_: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "import socket, time\nsock = socket.create_connection((\"{FAR_ADDRESS}\", {FAR_PORT}))\n\
         {}\ntime.sleep(600)\n",
        values.of("code")
    );
    ("script".to_owned(), text)
}

fn python_server(_: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "import socket, time\nsock = socket.socket()\n\
         sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         sock.bind((\"{NEAR_ADDRESS}\", {PORT}))\n{}\nsock.listen()\n\
         connections = []\nwhile True: connections.append(sock.accept())\n",
        values.of("code")
    );
    ("script".to_owned(), text)
}

fn node_client(_: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "const socket = require('net').connect({FAR_PORT}, '{FAR_ADDRESS}', () => {{\n{};\n}});\n",
        values.of("code")
    );
    ("script".to_owned(), text)
}

fn node_server(_: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "const net = require('net');\nconst server = {};\n\
         server.listen({PORT}, '{NEAR_ADDRESS}');\n",
        values.of("code")
    );
    ("script".to_owned(), text)
}
