//! Each test runs on a thread of its own: its restrictions end with the thread.

use std::{fs, io, os::fd::AsRawFd, process::Command, thread};

use libc::{SYS_bpf, TIOCSTI, c_int, ioctl, syscall};
use rustix::io::Errno;

use super::*;

/// Runs `work` on a thread that is confined first.
fn confined<T: Send + 'static>(needs: Needs, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        let sandbox = apply(&needs);
        assert!(sandbox.system_calls.is_some(), "{:?}", sandbox.missing);
        work()
    });
    thread.join().unwrap()
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[test]
fn nothing_is_written_executed_or_connected() {
    confined(Needs::tracing(OwnerLookup::Proc), || {
        let file = fs::File::create("/tmp/keepalive-sandbox-test").unwrap_err();
        assert_eq!(errno(&file), Some(Errno::PERM));
        let append = fs::OpenOptions::new().append(true).open("/dev/null");
        assert_eq!(errno(&append.unwrap_err()), Some(Errno::PERM));
        assert!(Command::new("/bin/true").status().is_err());
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap_err();
        assert_eq!(errno(&socket), Some(Errno::PERM));
        assert_eq!(
            errno(&fs::remove_file("/tmp/none").unwrap_err()),
            Some(Errno::PERM)
        );
    });
}

/// The standard library still works: threads, memory, time, panics, reading.
#[test]
fn ordinary_work_goes_on() {
    for needs in [
        Needs::printing(),
        Needs::tracing(OwnerLookup::Proc),
        Needs::tracing(OwnerLookup::Iterator),
        Needs::listing(),
    ] {
        // The file is absent on some machines.
        let zone = jiff::tz::TimeZone::try_system().is_ok();
        confined(needs, move || {
            let made = thread::spawn(|| vec![7_u8; 64 << 20].len()).join().unwrap();
            assert_eq!(made, 64 << 20);
            let caught = std::panic::catch_unwind(|| panic!("a panic on purpose"));
            assert!(caught.is_err());
            thread::sleep(std::time::Duration::from_millis(1));
            assert!(fs::read_to_string("/proc/self/status").is_ok());
            assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 0);
            assert!(thread::available_parallelism().is_ok());
            assert_eq!(jiff::tz::TimeZone::try_system().is_ok(), zone);
        });
    }
}

#[test]
fn files_are_made_where_they_are_needed() {
    let directory = std::env::temp_dir().join("keepalive-sandbox-files");
    fs::create_dir_all(&directory).unwrap();
    let needs = Needs::tracing(OwnerLookup::Iterator).writes_beside(Some(&directory.join("x.kar")));
    let there = directory.clone();
    confined(needs, move || {
        fs::write(there.join("one"), "1").unwrap();
        fs::rename(there.join("one"), there.join("two")).unwrap();
        fs::remove_file(there.join("two")).unwrap();
    });
    fs::remove_dir(&directory).unwrap();
    assert_eq!(directory_of(Path::new("x.kar")), Path::new("."));
    assert_eq!(directory_of(Path::new("/x.kar")), Path::new("/"));
}

#[test]
fn bpf_only_reads() {
    let bpf = |command: c_int| {
        let no_map = [u64::from(u32::MAX), 0, 0, 0];
        // SAFETY: the pointer and length are those of `no_map`.
        let result = unsafe { syscall(SYS_bpf, command, no_map.as_ptr(), size_of_val(&no_map)) };
        assert_eq!(result, -1);
        errno(&io::Error::last_os_error())
    };
    confined(Needs::tracing(OwnerLookup::Iterator), move || {
        const PROG_LOAD: c_int = 5;
        assert_eq!(bpf(PROG_LOAD), Some(Errno::PERM));
    });
    confined(Needs::printing(), move || {
        assert_eq!(bpf(1), Some(Errno::PERM));
    });
}

/// TIOCSTI inserts input into the terminal that the command was started from.
#[test]
fn no_keys_are_typed() {
    confined(Needs::tracing(OwnerLookup::Proc), || {
        let file = fs::File::open("/dev/null").unwrap();
        // SAFETY: a byte that outlives the call.
        let result = unsafe { ioctl(file.as_raw_fd(), TIOCSTI, &raw const *b"x") };
        assert_eq!(result, -1);
        let error = io::Error::last_os_error();
        assert_eq!(errno(&error), Some(Errno::PERM));
    });
}

#[test]
fn the_restrictions_are_printed() {
    let tried = try_out(&Needs::printing());
    assert_eq!(tried.kept, Vec::<String>::new());
    assert!(
        tried.to_string().starts_with("no capabilities; "),
        "{tried}"
    );
}
