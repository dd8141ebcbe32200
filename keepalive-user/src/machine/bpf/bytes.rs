//! The bytes of a file of some megabytes.

use std::{fs::File, ops::Deref, path::Path};

use anyhow::Result;
use memmap2::{Mmap, MmapOptions};

use crate::machine::files;

/// Directory of the kernel's own BTF; it holds nothing else.
const BTF: &str = "/sys/kernel/btf";

/// The contents of a file: mapped where the kernel supports that (its own BTF, since 6.16), else read; a read
/// of a sysfs file takes one system call per page.
pub enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Bytes {
    /// The file's bytes, if they are no more than `most`.
    ///
    /// # Errors
    /// If it cannot be read, is not a file, or has more.
    pub fn of(path: &Path, most: u64) -> Result<Self> {
        if path.parent() == Some(Path::new(BTF))
            && let Some(mapped) = map(&files::open(path)?, most)?
        {
            return Ok(Self::Mapped(mapped));
        }
        files::read(path, most).map(Self::Read)
    }
}

/// Maps a file in [`BTF`]; `None` where the kernel cannot map it, or if it has more than `most` bytes.
fn map(file: &File, most: u64) -> Result<Option<Mmap>> {
    let length = file.metadata()?.len();
    let Some(length) = usize::try_from(length).ok().filter(|_| length <= most) else {
        return Ok(None);
    };
    // SAFETY: a map is unsound if the file changes or shrinks while it is borrowed. What can be mapped in
    // this directory is the kernel's own BTF: pages of its read-only data, which nothing writes to or frees
    // (`btf_sysfs_vmlinux_mmap`; it refuses mappings that may be written to, or shared).
    let mapped = unsafe { MmapOptions::new().len(length).map_copy_read_only(file) };
    Ok(mapped.ok())
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Read(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_mapped_file_and_a_read_one_are_the_same() {
        for path in ["/sys/kernel/btf/vmlinux", "/proc/self/cmdline"] {
            let path = Path::new(path);
            if let Ok(expected) = fs::read(path) {
                assert!(*Bytes::of(path, 1 << 30).unwrap() == *expected);
                assert!(Bytes::of(path, 8).is_err(), "{}", path.display());
            }
        }
        assert!(Bytes::of(Path::new("/sys/no/such/file"), 8).is_err());
        assert!(Bytes::of(Path::new("/dev/zero"), 8).is_err());
    }
}
