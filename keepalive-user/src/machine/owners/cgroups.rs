//! The path of a cgroup by its id. Where CAP_DAC_READ_SEARCH permits it, by the kernel's file handle, which
//! takes three system calls whatever the number of cgroups; else by a walk over all of cgroupfs.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{DirEntryExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, ensure};
use rustc_hash::FxHashSet;
use rustix::io::Errno;

use crate::machine::syscall;

/// The mount point of cgroup2, if it is mounted.
pub fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// The id of the cgroup with this path, absolute or below the mount.
pub fn cgroup_id(path: &Path) -> Result<u64> {
    let root = cgroup2_root()
        .context("no cgroup2 is mounted here, sockets cannot be filtered by cgroup")?;
    let below = root.join(path.strip_prefix("/").unwrap_or(path));
    let metadata = fs::metadata(path)
        .ok()
        .filter(|_| path.starts_with(&root))
        .map_or_else(|| fs::metadata(&below), Ok)
        .with_context(|| format!("no cgroup {}", below.display()))?;
    // `..` may lead out of the mount, whose root has no cgroup above it.
    ensure!(
        metadata.is_dir() && Some(metadata.dev()) == fs::metadata(&root).ok().map(|it| it.dev()),
        "{} is not a cgroup: it is not a directory of the cgroup2 file system",
        path.display()
    );
    Ok(metadata.ino())
}

/// cgroupfs, to resolve single cgroups.
pub struct Handles {
    root: PathBuf,
    directory: File,
}

/// The result for one cgroup.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Path(String),
    /// No cgroup has this id (any more), or it is not below this mount.
    None,
    /// This process, or this kernel, cannot open cgroups by handle.
    Refused,
}

impl Handles {
    /// `None` where cgroup2 is not mounted.
    pub fn open() -> Option<Self> {
        let root = cgroup2_root()?;
        let directory = File::open(&root).ok()?;
        Some(Self { root, directory })
    }

    pub fn path(&self, id: u64) -> Answer {
        let opened = syscall::open_kernfs_id(self.directory.as_fd(), id);
        match opened.and_then(|opened| {
            let link = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
            Ok((link, opened))
        }) {
            Ok((path, _)) => self.below_root(id, &path),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => Answer::None,
            Err(error) => {
                log::debug!("cgroup {id} by its handle: {error}");
                Answer::Refused
            }
        }
    }

    /// The path that the kernel gives, if it exists: that of a cgroup that was just removed ends in
    /// "(deleted)", and a cgroup above the mount has no path here.
    fn below_root(&self, id: u64, path: &Path) -> Answer {
        let is_there = fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id);
        match path.strip_prefix(&self.root) {
            Ok(below) if is_there => Answer::Path(format!("/{}", below.to_string_lossy())),
            _ => Answer::None,
        }
    }
}

/// The requested cgroups that a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    pub found: Vec<(u64, String)>,
    pub missing: Vec<u64>,
}

/// Searches all directories below the mount for some cgroups, until all are found or `stop` is set.
pub fn walk(ids: &FxHashSet<u64>, stop: &AtomicBool) -> Walked {
    let mut left = ids.clone();
    let mut found = Vec::new();
    directories(|id, path| {
        if left.remove(&id) {
            found.push((id, path.to_owned()));
        }
        !left.is_empty() && !stop.load(Ordering::Relaxed)
    });
    let missing = left.into_iter().collect();
    Walked { found, missing }
}

/// Passes the inode number and the path below the mount of every cgroup to `each`, until it returns false.
pub fn directories(mut each: impl FnMut(u64, &str) -> bool) {
    let Some(root) = cgroup2_root() else {
        return;
    };
    if fs::metadata(&root).is_ok_and(|metadata| !each(metadata.ino(), "/")) {
        return;
    }
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if let Ok(below) = path.strip_prefix(&root)
                && !each(entry.ino(), &format!("/{}", below.to_string_lossy()))
            {
                return;
            }
            pending.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways give the same path, where the kernel and the process's rights allow handles.
    #[test]
    fn a_handle_gives_what_a_walk_finds() {
        let Some(handles) = Handles::open() else {
            return;
        };
        let root = fs::metadata(&handles.root).unwrap().ino();
        let below = fs::read_dir(&handles.root).unwrap().flatten();
        let below = below.filter(|entry| entry.file_type().unwrap().is_dir());
        let mut ids: FxHashSet<u64> = below.map(|entry| entry.ino()).take(8).collect();
        ids.insert(root);
        ids.insert(u64::MAX - 1);
        let walked = walk(&ids, &AtomicBool::new(false));
        assert_eq!(walked.missing, [u64::MAX - 1]);
        assert_eq!(walked.found.len(), ids.len() - 1);
        for (id, path) in walked.found {
            let answer = handles.path(id);
            assert!(
                answer == Answer::Path(path.clone()) || answer == Answer::Refused,
                "{id} {path}: {answer:?}"
            );
        }
        let none = handles.path(u64::MAX - 1);
        assert!(none == Answer::None || none == Answer::Refused, "{none:?}");
        let stopped = walk(&ids, &AtomicBool::new(true));
        assert!(stopped.found.len() <= 1, "{stopped:?}");
    }
}
