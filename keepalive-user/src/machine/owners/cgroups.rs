//! The path of a cgroup by its id: by the kernel's file handle of it, which takes three system calls
//! whatever the number of cgroups, where that is permitted (CAP_DAC_READ_SEARCH); else by a walk over all of
//! cgroupfs.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{DirEntryExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustc_hash::FxHashSet;
use rustix::io::Errno;

use crate::machine::syscall;

/// Where cgroup2 is mounted, if it is.
pub fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// cgroupfs, to be asked for single cgroups.
pub struct Handles {
    root: PathBuf,
    directory: File,
}

/// What asking for one gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Path(String),
    /// There is none with this id (any more), or not below this mount.
    None,
    /// This process, or this kernel, cannot be asked so.
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

    /// What the kernel calls the place, if it is really there: one that was just removed is called
    /// "(deleted)", one above the mount has no name here.
    fn below_root(&self, id: u64, path: &Path) -> Answer {
        let is_there = fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id);
        match path.strip_prefix(&self.root) {
            Ok(below) if is_there => Answer::Path(format!("/{}", below.to_string_lossy())),
            _ => Answer::None,
        }
    }
}

/// What a walk found of those it was to find.
#[derive(Debug, Default)]
pub struct Walked {
    pub found: Vec<(u64, String)>,
    pub missing: Vec<u64>,
}

/// Looks for some cgroups in all directories below the mount, until all are found or it is to stop.
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

/// Hands out the inode number and the path below the mount of every cgroup, until `each` has enough.
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

    /// Both ways give the same, where the kernel and our rights allow the first.
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
