//! What a tracer could leave behind: BPF programs, maps and links, and mounts.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::kit::tracer::PATIENCE;

/// A kind of BPF object: its key in /proc/PID/fdinfo, and the bpf(2) command that returns the next
/// id after a given one.
const KINDS: [(&str, libc::c_long); 3] = [
    ("prog_id:", 11), // BPF_PROG_GET_NEXT_ID
    ("map_id:", 12),  // BPF_MAP_GET_NEXT_ID
    ("link_id:", 31), // BPF_LINK_GET_NEXT_ID
];

/// BPF objects of one process, and the mounts of this one.
pub struct Holdings {
    objects: Vec<BTreeSet<u32>>,
    mounts: String,
}

impl Holdings {
    /// What the process holds now.
    pub fn of(pid: u32) -> Result<Self> {
        let mut objects = vec![BTreeSet::new(); KINDS.len()];
        let path = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&path).context(path)? {
            // A descriptor may be closed during the scan.
            let Ok(info) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            for (ids, (name, _)) in objects.iter_mut().zip(KINDS) {
                let id = info.lines().find_map(|line| line.strip_prefix(name));
                ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
            }
        }
        Ok(Self {
            objects,
            mounts: mounts()?,
        })
    }

    /// How many programs there are.
    pub fn programs(&self) -> usize {
        self.objects[0].len()
    }

    /// The kernel frees unreferenced objects some time after the process has exited.
    pub fn expect_gone(&self) -> Result<()> {
        ensure!(
            self.mounts == mounts()?,
            "mounts changed, they were: {}",
            self.mounts
        );
        let deadline = Instant::now() + PATIENCE;
        for (ids, (name, command)) in self.objects.iter().zip(KINDS) {
            loop {
                let left: Vec<_> = ids.intersection(&all_ids(command)?).copied().collect();
                if left.is_empty() {
                    break;
                }
                ensure!(Instant::now() < deadline, "{name} {left:?} still there");
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

/// All mounts, with their options.
pub fn mounts() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")
}

/// Ids of all objects of a kind.
fn all_ids(command: libc::c_long) -> Result<BTreeSet<u32>> {
    /// The part of `union bpf_attr` these commands use.
    #[repr(C)]
    struct Attributes {
        start_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut ids = BTreeSet::new();
    let mut attributes = Attributes {
        start_id: 0,
        next_id: 0,
        open_flags: 0,
    };
    loop {
        // SAFETY: the pointer and the size describe `attributes`, which outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        if result < 0 {
            let error = std::io::Error::last_os_error();
            ensure!(
                error.raw_os_error() == Some(libc::ENOENT),
                "bpf command {command}: {error}"
            );
            return Ok(ids);
        }
        ids.insert(attributes.next_id);
        attributes.start_id = attributes.next_id;
    }
}
