//! Servers.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, Result};

use super::run::{
    NOBODY, PORT, Place, Program, Slot, Values, command, nothing, succeed, unprivileged,
};
use crate::kit::link::NEAR_ADDRESS;
use crate::trace::classics::{POSTGRESQL, REDIS};

const SSHD: &str = "/usr/sbin/sshd";
const MARIADB: &str = "/usr/sbin/mariadbd";
/// The directory in which sshd separates privileges; a distribution creates it when the service starts.
pub struct Separation {
    is_ours: bool,
}

impl Separation {
    const PATH: &str = "/run/sshd";

    pub fn ensure() -> Result<Self> {
        let is_ours = !Path::new(Self::PATH).exists();
        fs::create_dir_all(Self::PATH).context(Self::PATH)?;
        Ok(Self { is_ours })
    }
}

impl Drop for Separation {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_dir(Self::PATH);
        }
    }
}

pub const PROGRAMS: &[Program] = &[
    Program {
        name: "redis",
        slots: &[Slot {
            name: "conf",
            place: "redis.conf",
            before: "tcp-keepalive 0",
            separator: "\n",
        }],
        sysctls: false,
        prepare: nothing,
        configuration: redis,
        check: None,
        start: |place, _| command(REDIS, [place.path("conf").as_str()]),
        connects_to: &[(PORT, b"PING\r\n")],
        opens: 0,
    },
    Program {
        name: "sshd",
        slots: &[Slot {
            name: "conf",
            place: "sshd_config",
            before: "TCPKeepAlive no",
            separator: "\n",
        }],
        sysctls: true,
        prepare: sshd_keys,
        configuration: sshd,
        check: Some(|place, _| command(SSHD, ["-t", "-f", &place.path("conf")])),
        start: |place, _| command(SSHD, ["-D", "-e", "-f", &place.path("conf")]),
        connects_to: &[(PORT, b"")],
        opens: 0,
    },
    // With its defaults keepalive is on, but late.
    Program {
        name: "sshd_late",
        slots: &[],
        sysctls: true,
        prepare: sshd_keys,
        configuration: sshd,
        check: Some(|place, _| command(SSHD, ["-t", "-f", &place.path("conf")])),
        start: |place, _| command(SSHD, ["-D", "-e", "-f", &place.path("conf")]),
        connects_to: &[(PORT, b"")],
        opens: 0,
    },
    Program {
        name: "postgresql",
        slots: &[Slot {
            name: "conf",
            place: "postgresql.conf",
            before: "",
            separator: "\n",
        }],
        sysctls: false,
        prepare: postgresql_data,
        configuration: postgresql,
        check: Some(|place, _| {
            let name = "tcp_keepalives_idle";
            unprivileged(POSTGRESQL, ["-C", name, "-D", &place.path("data")])
        }),
        start: |place, _| unprivileged(POSTGRESQL, ["-D", &place.path("data")]),
        connects_to: &[(PORT, b"")],
        opens: 0,
    },
    Program {
        name: "mariadb",
        slots: &[Slot {
            name: "conf",
            place: "my.cnf",
            before: "",
            separator: "\n",
        }],
        sysctls: false,
        prepare: mariadb_data,
        configuration: mariadb,
        check: Some(|place, _| {
            let file = format!("--defaults-file={}", place.path("conf"));
            unprivileged(MARIADB, [file.as_str(), "--verbose", "--help"])
        }),
        start: |place, _| {
            let file = format!("--defaults-file={}", place.path("conf"));
            unprivileged(MARIADB, [file.as_str()])
        },
        connects_to: &[(PORT, b"")],
        opens: 0,
    },
];

fn redis(place: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "bind {NEAR_ADDRESS}\nport {PORT}\nprotected-mode no\nsave \"\"\ndir {}\n{}\n",
        place.directory.display(),
        values.of("conf")
    );
    ("conf".to_owned(), text)
}

fn sshd_keys(place: &Place) -> Result<()> {
    let key = place.path("key");
    succeed(command(
        "/usr/bin/ssh-keygen",
        ["-q", "-t", "ed25519", "-N", "", "-f", &key],
    ))
}

fn sshd(place: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "Port {PORT}\nListenAddress {NEAR_ADDRESS}\nHostKey {}\nUsePAM no\nPidFile {}\n\
         LoginGraceTime 600\n{}\n",
        place.path("key"),
        place.path("pid"),
        values.of("conf")
    );
    ("conf".to_owned(), text)
}

fn postgresql_data(place: &Place) -> Result<()> {
    let initdb = Path::new(POSTGRESQL).with_file_name("initdb");
    let data = place.path("data");
    succeed(unprivileged(
        &initdb.display().to_string(),
        ["--no-sync", "-A", "trust", "-U", "nobody", "-D", &data],
    ))
}

fn postgresql(place: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "listen_addresses = '{NEAR_ADDRESS}'\nport = {PORT}\nunix_socket_directories = '{}'\n\
         authentication_timeout = 600s\n{}\n",
        place.directory.display(),
        values.of("conf")
    );
    ("data/postgresql.conf".to_owned(), text)
}

fn mariadb_data(place: &Place) -> Result<()> {
    let data = format!("--datadir={}", place.path("data"));
    let temporary = place.path("tmp");
    fs::create_dir(&temporary)?;
    chown(&temporary, Some(NOBODY), Some(NOBODY))?;
    succeed(unprivileged(
        "/usr/bin/mariadb-install-db",
        [
            "--no-defaults",
            &data,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            &format!("--tmpdir={temporary}"),
        ],
    ))
}

fn mariadb(place: &Place, values: &Values) -> (String, String) {
    let text = format!(
        "[mariadb]\ndatadir = {}\ntmpdir = {}\nsocket = {}\npid-file = {}\n\
         bind-address = {NEAR_ADDRESS}\nport = {PORT}\nskip-name-resolve\nskip-grant-tables\nconnect_timeout = 600\n{}\n",
        place.path("data"),
        place.path("tmp"),
        place.path("socket"),
        place.path("pid"),
        values.of("conf")
    );
    ("conf".to_owned(), text)
}
