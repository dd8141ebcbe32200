//! The bytes of a file of some megabytes.

use std::{fs::File, ops::Deref, os::fd::AsRawFd, path::Path};

use anyhow::Result;

use crate::machine::files;

/// The contents of a file: as the kernel has them in memory where it shows that (its own BTF, from
/// 6.16 on), else read, which for a file of sysfs takes a system call a page.
pub enum Bytes {
    Mapped { address: *const u8, length: usize },
    Read(Vec<u8>),
}

impl Bytes {
    /// The file's bytes, if they are no more than `most`.
    ///
    /// # Errors
    /// If it cannot be read, is not a file, or has more.
    pub fn of(path: &Path, most: u64) -> Result<Self> {
        if path.starts_with("/sys")
            && let Some(mapped) = Self::map(&files::open(path)?, most)?
        {
            return Ok(mapped);
        }
        files::read(path, most).map(Self::Read)
    }

    /// Only of files that nobody can change or shorten.
    fn map(file: &File, most: u64) -> Result<Option<Self>> {
        let length = file.metadata()?.len();
        let Some(length) = usize::try_from(length).ok().filter(|_| length <= most) else {
            return Ok(None);
        };
        // SAFETY: a new mapping, of no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        Ok((address != libc::MAP_FAILED).then_some(Self::Mapped {
            address: address.cast(),
            length,
        }))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: so many bytes are mapped there, and nothing writes to them.
            Self::Mapped { address, length } => unsafe {
                std::slice::from_raw_parts(*address, *length)
            },
            Self::Read(bytes) => bytes,
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let Self::Mapped { address, length } = self {
            // SAFETY: mapped by us, and nothing refers to it any more.
            unsafe { libc::munmap(address.cast_mut().cast(), *length) };
        }
    }
}

// SAFETY: memory that nobody writes to.
unsafe impl Sync for Bytes {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn mapped_or_read_it_is_the_same() {
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
