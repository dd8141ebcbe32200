//! # File descriptors
//!
//! Which process holds which socket: one pass over all file descriptor tables in /proc, whatever
//! the number of sockets. `/proc/PID/fd/FD` is a link to `socket:[INODE]`.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read},
    mem::MaybeUninit,
    os::fd::RawFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use keepalive_ebpf::OpenSocket;
use rustix::{
    fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw},
    io::Errno,
};

/// A socket in a file descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    pub inode: u64,
    pub pid: u32,
    pub fd: RawFd,
}

impl From<&OpenSocket> for Descriptor {
    fn from(open: &OpenSocket) -> Self {
        Self {
            inode: open.inode,
            pid: open.tgid,
            fd: open.fd as RawFd,
        }
    }
}

/// A process, held by its open directory in /proc: after its end reading fails, even if another process
/// gets its id.
pub struct Holder {
    directory: File,
}

impl Holder {
    fn open(directory: &Path) -> io::Result<Self> {
        let directory = File::open(directory)?;
        Ok(Self { directory })
    }

    fn file(&self, name: &CStr) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(&self.directory, name, flags, Mode::empty())?.into())
    }

    /// Its name; empty if it has ended.
    pub fn comm(&self) -> String {
        let mut comm = Vec::new();
        match self
            .file(c"comm")
            .and_then(|mut file| file.read_to_end(&mut comm))
        {
            Ok(_) => comm_from(&comm),
            Err(_) => String::new(),
        }
    }
}

/// Decodes `/proc/PID/comm`.
pub fn comm_from(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes)).into_owned()
}

/// Passes all descriptors of all processes that are sockets to `each`, process by process; returns how
/// many processes have unreadable descriptors.
pub fn pass(each: impl FnMut(&Holder, Descriptor)) -> u64 {
    pass_until(&AtomicBool::new(false), each)
}

/// As [`pass`], but stops when `stop` becomes true.
pub fn pass_until(stop: &AtomicBool, mut each: impl FnMut(&Holder, Descriptor)) -> u64 {
    let mut denied = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let scanned = Holder::open(&entry.path()).and_then(|holder| {
            let table = holder.file(c"fd")?;
            files_of(&entry.path(), &table, &mut |inode, fd| {
                if let Some(inode) = inode {
                    each(&holder, Descriptor { inode, pid, fd });
                }
                !stop.load(Ordering::Relaxed)
            });
            Ok(())
        });
        if let Err(error) = scanned {
            denied += u64::from(error.kind() == io::ErrorKind::PermissionDenied);
        }
    }
    denied
}

/// Passes the descriptors of one process that are sockets to `each`, until it returns false or `most`
/// descriptors of any kind were read; false if it stopped before the end.
///
/// # Errors
/// If there is no such process, or its descriptors are not readable.
pub fn of_process(
    pid: u32,
    most: usize,
    mut each: impl FnMut(Descriptor) -> bool,
) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let mut left = most;
    let table = File::open(process.join("fd"))?;
    Ok(files_of(&process, &table, &mut |inode, fd| {
        left = left.saturating_sub(1);
        left > 0 && inode.is_none_or(|inode| each(Descriptor { inode, pid, fd }))
    }))
}

/// The entries of the descriptor table of a process, as [`open_files`]. If it is empty, those of the threads'
/// tables: the main thread may have exited, and then has none any more (`exit_files`). Threads may share one,
/// so that an entry comes more than once.
fn files_of(
    process: &Path,
    table: &File,
    each: &mut impl FnMut(Option<u64>, RawFd) -> bool,
) -> bool {
    let mut is_empty = true;
    let is_whole = open_files(table, &mut |inode, fd| {
        is_empty = false;
        each(inode, fd)
    });
    if !is_empty {
        return is_whole;
    }
    std::fs::read_dir(process.join("task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| File::open(thread.path().join("fd")).ok())
        .all(|table| open_files(&table, each))
}

/// Whether a descriptor is still the socket it was.
///
/// # Errors
/// If it is not readable.
pub fn is_held(descriptor: &Descriptor) -> io::Result<bool> {
    let path = format!("/proc/{}/fd/{}", descriptor.pid, descriptor.fd);
    match readlinkat_raw(CWD, path, &mut target()) {
        Ok((target, _)) => Ok(socket_inode(target) == Some(descriptor.inode)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A buffer for the target of a link to a socket; longer targets are of other files and may be truncated.
fn target() -> [MaybeUninit<u8>; 64] {
    [MaybeUninit::uninit(); 64]
}

/// Directory entries read at once, bytes.
const ENTRIES: usize = 1 << 15;

/// The entries of one table, with the inode number of those that are sockets, until `each` returns false;
/// false then. Plain system calls: a process may hold a hundred thousand descriptors.
fn open_files(table: &File, each: &mut impl FnMut(Option<u64>, RawFd) -> bool) -> bool {
    let mut entries = vec![MaybeUninit::uninit(); ENTRIES];
    let mut target = target();
    let mut entries = RawDir::new(table, &mut entries);
    while let Some(entry) = entries.next() {
        let Ok(entry) = entry else {
            return false;
        };
        let name = entry.file_name();
        let link = readlinkat_raw(table, name, &mut target);
        // `.` and `..` are not numbers.
        if let Some(fd) = number(name.to_bytes()).and_then(|fd| fd.try_into().ok())
            && !each(link.ok().and_then(|(target, _)| socket_inode(target)), fd)
        {
            return false;
        }
    }
    true
}

/// `socket:[12345]` → 12345.
pub fn socket_inode(target: &[u8]) -> Option<u64> {
    number(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?)
}

fn number(digits: &[u8]) -> Option<u64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn finds_a_socket_of_our_own() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let fd = listener.as_raw_fd();
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let inode = socket_inode(link.as_os_str().as_encoded_bytes()).unwrap();
        let pid = std::process::id();
        let mut found = Vec::new();
        let mut comm = String::new();
        pass(|holder, descriptor| {
            found.push(descriptor);
            if descriptor.pid == pid {
                comm = holder.comm();
            }
        });
        assert!(found.contains(&Descriptor { inode, pid, fd }));
        let own = std::fs::read("/proc/self/comm").unwrap();
        assert_eq!(comm, comm_from(&own));
    }

    /// A process id may be reused: the opened directory stays that of the first process.
    #[test]
    fn a_process_that_is_gone_has_no_name() {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let path = format!("/proc/{}", child.id());
        let holder = Holder::open(Path::new(&path)).unwrap();
        assert!(!holder.comm().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(holder.comm(), "");
        assert!(holder.file(c"fd").is_err());
    }

    #[test]
    fn reads_one_process_and_one_descriptor() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (pid, fd) = (std::process::id(), listener.as_raw_fd());
        let mut own = None;
        let is_whole = of_process(pid, usize::MAX, |descriptor| {
            own = own.or(Some(descriptor).filter(|found| found.fd == fd));
            true
        });
        assert!(is_whole.unwrap());
        let own = own.unwrap();
        assert!(is_held(&own).unwrap());
        let other = Descriptor {
            inode: own.inode + 1,
            ..own
        };
        assert!(!is_held(&other).unwrap());
        assert!(!is_held(&Descriptor { fd: 999_999, ..own }).unwrap());
        // It stops early, at the limit or when `each` returns false.
        assert!(!of_process(pid, 1, |_| true).unwrap());
        assert!(!of_process(pid, usize::MAX, |_| false).unwrap());
        let gone = of_process(u32::MAX, usize::MAX, |_| true).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
    }

    /// A process whose main thread has exited, as /proc shows it.
    #[test]
    fn the_table_of_another_thread() {
        let process = std::env::temp_dir().join(format!("keepalive-{}", std::process::id()));
        let of_thread = process.join("task/8/fd");
        std::fs::create_dir_all(process.join("fd")).unwrap();
        std::fs::create_dir_all(&of_thread).unwrap();
        std::os::unix::fs::symlink("socket:[17]", of_thread.join("3")).unwrap();
        let files = || {
            let mut found = Vec::new();
            let table = File::open(process.join("fd")).unwrap();
            assert!(files_of(&process, &table, &mut |inode, fd| {
                found.push((inode, fd));
                true
            }));
            found
        };
        assert_eq!(files(), [(Some(17), 3)]);
        // The main thread has a table: the threads share it.
        std::os::unix::fs::symlink("/dev/null", process.join("fd/0")).unwrap();
        assert_eq!(files(), [(None, 0)]);
        std::fs::remove_dir_all(&process).unwrap();
    }

    #[test]
    fn a_pass_ends_when_stop_is_set() {
        let _listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut found = 0;
        pass_until(&AtomicBool::new(true), |_, _| found += 1);
        assert_eq!(found, 0);
    }

    #[test]
    fn other_links_are_not_sockets() {
        assert_eq!(socket_inode(b"socket:[17]"), Some(17));
        for other in [
            &b"pipe:[17]"[..],
            b"/dev/null",
            b"socket:[",
            b"socket:[x]",
            b"",
        ] {
            assert_eq!(socket_inode(other), None);
        }
    }
}
