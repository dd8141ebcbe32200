//! Fixtures made from fixtures, and from files that are not a kernel.

use super::*;

/// Trimming a fixture again removes nothing, and the same types give the same bytes.
#[test]
fn a_fixture_of_a_fixture_is_the_same() {
    let directory = paths::root().join("keepalive-user/tests/btf");
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut count = 0;
    for path in files.filter(|path| path.extension().is_some_and(|it| it == "btf")) {
        let fixture = fs::read(&path).unwrap();
        assert_eq!(trimmed(&fixture).unwrap(), fixture, "{}", path.display());
        count += 1;
    }
    assert!(count >= MATRIX.len(), "{count}");
}

#[test]
fn what_is_not_a_kernel_is_refused() {
    assert!(trimmed(b"").is_err());
    assert!(trimmed(b"\x7fELF").is_err());
    assert!(section(b"MZ", b".BTF").is_err());
    assert!(section(b"\x7fELF\x02\x01", b".BTF").is_err());
}
