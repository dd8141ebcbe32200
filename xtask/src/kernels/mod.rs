//! The kernel matrix: stock Debian kernels, fetched with apt into `target/kernels`.

mod apt;

use std::{
    cmp, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use self::apt::Apt;
use crate::paths;

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
}
