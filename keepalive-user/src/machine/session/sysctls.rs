//! The sysctls of the namespace that a session traces, or of its own: read at every tick, so that a change is
//! noticed at once. Those of other namespaces are noticed at the next record of one of their sockets.
//!
//! A file below /proc/sys belongs to the namespace in which it was opened, and is read again from its
//! beginning. inotify does not work there.

use std::{fs::File, os::unix::fs::FileExt};

use anyhow::{Context, Result};
use strum::IntoEnumIterator;

use crate::{
    core::{
        event::{Sysctl, Sysctls},
        format::name,
    },
    machine::{clock::monotonic_ns, namespace::Namespace},
};

/// The longest value that is read, bytes.
const LONGEST: usize = 32;

/// The open files of one namespace.
pub struct NamespaceSysctls {
    /// Keeps it, and so its inode number.
    namespace: Namespace,
    files: Vec<(Sysctl, File)>,
}

impl NamespaceSysctls {
    /// Of the namespace with this inode number; 0 = of the calling thread's.
    ///
    /// # Errors
    /// If it has ended, or /proc/sys does not show them.
    pub fn open(netns: u32) -> Result<Self> {
        let namespace = match netns {
            0 => Namespace::current()?,
            inode => Namespace::named(&inode.to_string())?,
        };
        let files = namespace.within(|| {
            Sysctl::iter()
                .map(|sysctl| {
                    let path = format!("/proc/sys/net/ipv4/{}", name(sysctl));
                    let file = File::open(&path).context(path)?;
                    Ok((sysctl, file))
                })
                .collect::<Result<_>>()
        })?;
        Ok(Self { namespace, files })
    }

    pub fn netns(&self) -> u32 {
        self.namespace.inode
    }

    /// The values now, and the time after they were read, CLOCK_MONOTONIC; `None` if one cannot be read.
    pub fn read(&self) -> Option<(Sysctls, u64)> {
        let read = |wanted| {
            let (_, file) = self.files.iter().find(|(sysctl, _)| *sysctl == wanted)?;
            let mut bytes = [0; LONGEST];
            let length = file.read_at(&mut bytes, 0).ok()?;
            let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
            text.trim().parse().ok()
        };
        let values = Sysctls::read(read)?;
        Some((values, monotonic_ns()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::namespace;

    #[test]
    fn the_own_namespace_is_read_repeatedly() {
        let own = NamespaceSysctls::open(0).unwrap();
        assert_eq!(own.netns(), Namespace::current().unwrap().inode);
        let (first, second) = (own.read().unwrap(), own.read().unwrap());
        assert_eq!(Some(first.0), namespace::sysctls());
        assert_eq!(first.0, second.0);
        assert!(first.1 <= second.1);
        assert!(NamespaceSysctls::open(1).is_err());
    }
}
