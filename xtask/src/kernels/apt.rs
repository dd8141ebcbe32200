//! apt with separate lists, so that those of the system do not change.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};

use crate::{paths, run};

/// Suites besides the machine's own; security suites have a separate mirror.
const SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "sid",
];
const SECURITY_SUITES: &[&str] = &["bullseye-security", "bookworm-security", "trixie-security"];

/// apt with lists and state below target/.
pub struct Apt {
    options: Vec<String>,
}

/// Whether this run has updated apt's lists.
static UPDATED: AtomicBool = AtomicBool::new(false);

impl Apt {
    pub fn new() -> Result<Self> {
        let home = paths::target("kernels/apt");
        for below in ["lists/partial", "state", "cache/archives/partial"] {
            fs::create_dir_all(home.join(below)).context("cannot make apt's directories")?;
        }
        let sources = home.join("sources.list");
        fs::write(&sources, source_list(&configured()?)?).context("cannot write sources.list")?;
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={}", home.join("state").display()),
            format!("Dir::State::lists={}", home.join("lists").display()),
            format!("Dir::Cache={}", home.join("cache").display()),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ];
        let apt = Self {
            options: options.into(),
        };
        if !UPDATED.load(Ordering::Relaxed) {
            let what = "apt-get update (kernel suites)";
            run::step(what, apt.command("apt-get").arg("update"))?;
            UPDATED.store(true, Ordering::Relaxed);
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(
            self.options
                .iter()
                .flat_map(|option| ["-o", option.as_str()]),
        );
        command
    }

    /// Names of all kernel packages.
    pub fn names(&self) -> Result<Vec<String>> {
        let output = run::step(
            "apt-cache pkgnames",
            self.command("apt-cache").args(["pkgnames", "linux-"]),
        )?;
        Ok(run::text(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Downloads and unpacks a release; newer ones are split into several packages.
    pub fn download(&self, release: &str, into: &Path) -> Result<()> {
        let names = self.names()?;
        let packages: Vec<String> = ["image", "binary", "modules"]
            .iter()
            .map(|part| format!("linux-{part}-{release}"))
            .filter(|name| names.contains(name))
            .collect();
        let download = into.join("packages");
        fs::create_dir_all(&download).context("cannot make a download directory")?;
        let mut command = self.command("apt-get");
        command
            .arg("download")
            .args(&packages)
            .current_dir(&download);
        run::step(&format!("download {release}"), &mut command)?;
        for package in fs::read_dir(&download)?.flatten() {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(package.path()).arg(into);
            run::step("dpkg-deb", &mut unpack)?;
        }
        fs::remove_dir_all(&download).context("cannot remove the downloaded packages")
    }
}

/// The apt sources of the machine, from all their files.
fn configured() -> Result<String> {
    let mut text = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten()
    {
        text.push('\n');
        text += &fs::read_to_string(entry.path()).unwrap_or_default();
        text.push('\n');
    }
    if text.trim().is_empty() {
        bail!("this machine has no apt sources; fetching kernels needs a Debian mirror");
    }
    Ok(text)
}

/// The suites of the matrix on the machine's mirrors.
fn source_list(configured: &str) -> Result<String> {
    let mirrors = mirrors(configured);
    let find = |wanted: &dyn Fn(&str) -> bool| {
        mirrors
            .iter()
            .find(|(_, suite)| wanted(suite))
            .map(|(uri, _)| uri.clone())
    };
    let is_debian = |suite: &str| {
        SUITES.contains(&suite) || matches!(suite, "stable" | "oldstable" | "testing")
    };
    let debian = find(&is_debian).context("the machine's apt sources name no Debian mirror")?;
    let security =
        find(&|suite| suite.ends_with("-security")).unwrap_or_else(|| format!("{debian}-security"));
    let line = |uri: &str, suite: &str| {
        format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main\n"
        )
    };
    let suites = SUITES.iter().map(|suite| line(&debian, suite));
    let security_suites = SECURITY_SUITES.iter().map(|suite| line(&security, suite));
    Ok(suites.chain(security_suites).collect())
}

/// Pairs of mirror and suite, from one-line and deb822 sources.
fn mirrors(configured: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in configured.lines() {
        let line = line.trim();
        let Some(rest) = line.strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim_start();
        let rest = if rest.starts_with('[') {
            rest.split_once(']').map_or("", |(_, rest)| rest)
        } else {
            rest
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            found.push((uri.trim_end_matches('/').to_owned(), suite.to_owned()));
        }
    }
    for stanza in configured.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let (Some(uris), Some(suites)) = (field("URIs:"), field("Suites:")) else {
            continue;
        };
        for uri in uris.split_whitespace() {
            let uri = uri.trim_end_matches('/');
            found.extend(
                suites
                    .split_whitespace()
                    .map(|suite| (uri.to_owned(), suite.to_owned())),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds_of_sources() {
        let configured = "Types: deb\n# note\nURIs: http://mirror.example/debian/\nSuites: bookworm bookworm-updates\n\n\
            Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\n";
        let list = source_list(configured).unwrap();
        assert!(
            list.contains("http://mirror.example/debian sid main"),
            "{list}"
        );
        assert!(
            list.contains("http://mirror.example/debian-security trixie-security main"),
            "{list}"
        );
        let list =
            source_list("deb [arch=amd64] https://m.example/d bookworm main contrib\n").unwrap();
        assert!(
            list.contains("https://m.example/d-security bullseye-security main"),
            "{list}"
        );
        assert!(source_list("deb https://other.example/repo nodistro main\n").is_err());
    }
}
