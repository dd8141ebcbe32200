//! The kernel matrix: stock Debian kernels, fetched with apt into `target/kernels`. apt uses separate lists,
//! so that those of the system do not change.

use std::{
    cmp, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};

use crate::{paths, run};

/// One row of the matrix.
pub struct Kernel {
    pub label: &'static str,
    /// The release: `NAME` in `linux-image-NAME`, where `#` stands for any version number.
    pattern: &'static str,
    /// Features to remove from QEMU's `max` CPU.
    pub cpu: &'static str,
}

/// Every kernel that must work, oldest first. The pattern of a release leaves the version number open, so
/// that the newest security update is tested.
pub const MATRIX: &[Kernel] = &[
    Kernel {
        label: "5.10",
        pattern: "5.10.0-#-cloud-amd64",
        cpu: "max",
    },
    Kernel {
        label: "6.1",
        pattern: "6.1.0-#-cloud-amd64",
        cpu: "max",
    },
    Kernel {
        label: "6.12",
        pattern: "6.12.#+deb12-cloud-amd64",
        cpu: "max",
    },
    Kernel {
        label: "6.12-rt",
        pattern: "6.12.#+deb12-rt-amd64",
        cpu: "max",
    },
    // It sometimes double-faults under TCG with cmpxchg16b.
    Kernel {
        label: "6.12-trixie",
        pattern: "6.12.#+deb13-cloud-amd64",
        cpu: "max,-cx16",
    },
    Kernel {
        label: "7",
        pattern: "7.#+deb14-cloud-amd64",
        cpu: "max",
    },
];

/// Suites besides the machine's own; security suites have a separate mirror.
const SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "sid",
];
const SECURITY_SUITES: &[&str] = &["bullseye-security", "bookworm-security", "trixie-security"];

/// A kernel on disk.
pub struct Fetched {
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    pub release: String,
}

impl Kernel {
    /// The kernel of that label.
    pub fn of(label: &str) -> Result<&'static Self> {
        let known = || {
            MATRIX
                .iter()
                .map(|kernel| kernel.label)
                .collect::<Vec<_>>()
                .join(", ")
        };
        MATRIX
            .iter()
            .find(|kernel| kernel.label == label)
            .with_context(|| format!("unknown kernel {label:?}; the matrix has {}", known()))
    }

    /// The kernel from `target/kernels`, fetched first if it is missing.
    pub fn fetch(&self) -> Result<Fetched> {
        let directory = paths::target("kernels").join(self.label);
        if let Some(fetched) = find(&directory) {
            return Ok(fetched);
        }
        let apt = Apt::new()?;
        let release = self.newest(&apt.names()?).with_context(|| {
            format!(
                "no suite has a kernel {}, the {} row cannot run",
                self.pattern, self.label
            )
        })?;
        // It is unpacked beside and renamed, so that an incomplete download is never used.
        let unpacked = directory.with_extension("partial");
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked)
            .with_context(|| format!("cannot make {}", unpacked.display()))?;
        apt.download(&release, &unpacked)?;
        let _ = fs::remove_dir_all(&directory);
        fs::rename(&unpacked, &directory).context("cannot rename the unpacked kernel")?;
        find(&directory)
            .with_context(|| format!("the packages of {release} have no kernel image or modules"))
    }

    /// The newest release among package names that fits the pattern.
    fn newest(&self, names: &[String]) -> Option<String> {
        names
            .iter()
            .filter_map(|name| name.strip_prefix("linux-image-"))
            .filter(|release| fits(self.pattern, release))
            .max_by(|a, b| compare(a, b))
            .map(str::to_owned)
    }
}

/// Whether a release fits a pattern: `#` is one or more digits and dots.
fn fits(pattern: &str, release: &str) -> bool {
    let Some((before, after)) = pattern.split_once('#') else {
        return pattern == release;
    };
    release
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .is_some_and(|version| {
            !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        })
}

/// Compares releases number by number.
fn compare(a: &str, b: &str) -> cmp::Ordering {
    let numbers = |release: &str| -> Vec<u64> {
        release
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

/// The image and modules below an unpacked package.
fn find(directory: &Path) -> Option<Fetched> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .filter_map(|below| fs::read_dir(directory.join(below)).ok())
        .flat_map(Iterator::flatten)
        .map(|entry| entry.path())
        .find(|path| path.join("kernel").is_dir())?;
    let release = modules.file_name()?.to_str()?.to_owned();
    let image = [
        directory.join(format!("boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ]
    .into_iter()
    .find(|image| image.exists())?;
    Some(Fetched {
        image,
        modules,
        release,
    })
}

/// apt with lists and state below target/.
struct Apt {
    options: Vec<String>,
}

/// Whether this run has updated apt's lists.
static UPDATED: AtomicBool = AtomicBool::new(false);

impl Apt {
    fn new() -> Result<Self> {
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
    fn names(&self) -> Result<Vec<String>> {
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
    fn download(&self, release: &str, into: &Path) -> Result<()> {
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
    fn chooses_the_newest_release_that_fits() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.12.117+deb12-rt-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.99+deb12-cloud-amd64",
            "linux-image-cloud-amd64",
        ]
        .map(str::to_owned);
        let newest = |label| Kernel::of(label).unwrap().newest(&names);
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(
            newest("6.12").as_deref(),
            Some("6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(
            newest("6.12-rt").as_deref(),
            Some("6.12.117+deb12-rt-amd64")
        );
        assert_eq!(newest("7"), None);
    }

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
