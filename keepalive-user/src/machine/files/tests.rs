//! Which files are refused, followed and overwritten.

use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::fs::{Mode, mkfifoat};

use super::*;

/// A directory that is removed with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("keepalive-files-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file with some text in it.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, "old").unwrap();
        path
    }

    fn fifo(&self) -> PathBuf {
        let path = self.0.join("fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn message<T>(result: Result<T>) -> String {
    format!("{:#}", result.err().expect("it is refused"))
}

#[test]
fn created_files_are_new_and_private() {
    let directory = Directory::new("new");
    let path = directory.0.join("x");
    drop(create(&path, PRIVATE, false).unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(message(create(&path, PRIVATE, false)).contains("exists and is not overwritten"));
    // With force a new file replaces it, and other links keep the old one.
    let other = directory.0.join("other");
    let old = directory.file("old");
    fs::hard_link(&old, &other).unwrap();
    drop(create(&old, PRIVATE, true).unwrap());
    assert_eq!(fs::read(&old).unwrap(), b"");
    assert_eq!(fs::read(&other).unwrap(), b"old");
}

#[test]
fn links_devices_and_directories_are_never_written_to() {
    let directory = Directory::new("kinds");
    let old = directory.file("old");
    let [link, dangling] = ["link", "dangling"].map(|name| directory.0.join(name));
    symlink(&old, &link).unwrap();
    symlink(directory.0.join("nowhere"), &dangling).unwrap();
    for (path, kind) in [
        (link, "a symbolic link"),
        (dangling, "a symbolic link"),
        (directory.fifo(), "a FIFO"),
        (directory.0.clone(), "a directory"),
        ("/dev/null".into(), "a device"),
    ] {
        for force in [false, true] {
            let error = message(create(&path, PRIVATE, force));
            assert!(error.contains(kind), "{error}");
            assert!(error.contains("name a file"), "{error}");
        }
    }
    assert_eq!(fs::read(&old).unwrap(), b"old");
    assert!(!directory.0.join("nowhere").exists());
    assert!(message(check_directory(Path::new("/nonexistent/x"))).contains("/nonexistent/x"));
}

#[test]
fn an_existing_name_is_not_replaced() {
    let directory = Directory::new("rename");
    let (from, to) = (directory.file("from"), directory.file("to"));
    let error = rename_new(&from, &to).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    fs::remove_file(&to).unwrap();
    symlink("/nonexistent", &to).unwrap();
    let error = rename_new(&from, &to).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    fs::remove_file(&to).unwrap();
    rename_new(&from, &to).unwrap();
    assert!(!from.exists() && to.exists());
}

#[test]
fn reading_is_bounded() {
    let directory = Directory::new("read");
    let old = directory.file("old");
    assert_eq!(read(&old, 3).unwrap(), b"old");
    assert!(message(read(&old, 2)).contains("more than 2 bytes"));
    assert!(message(read(Path::new("/dev/zero"), 9)).contains("a device"));
    assert!(message(read(&directory.0, 9)).contains("a directory"));
    // Its size is 0 by stat(2), but it has bytes.
    let status = read(Path::new("/proc/self/status"), 1 << 16).unwrap();
    assert!(status.len() > 100);
}

#[test]
fn the_same_file_by_any_name() {
    let directory = Directory::new("same");
    let old = directory.file("old");
    let [link, hard, none] = ["link", "hard", "none"].map(|name| directory.0.join(name));
    symlink(&old, &link).unwrap();
    fs::hard_link(&old, &hard).unwrap();
    let around = directory
        .0
        .join("..")
        .join(directory.0.file_name().unwrap());
    for output in [&old, &link, &hard, &around.join("old")] {
        let error = message(refuse_same(output, std::slice::from_ref(&old)));
        assert!(error.contains("is the same file as"), "{error}");
    }
    // Also for a file that does not exist yet.
    assert!(refuse_same(&around.join("none"), std::slice::from_ref(&none)).is_err());
    assert!(refuse_same(&none, std::slice::from_ref(&old)).is_ok());
    assert!(refuse_same(Path::new("/dev/null"), &["/dev/null".into()]).is_err());
}
