//! A program that does not outlive the scenario that started it, however that ends.

use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};

/// A running program; killed, and waited for, when this is dropped.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Waits for its end, and gives what it wrote to stdout and stderr as far as they are pipes that nothing
    /// else reads: one after the other, so it must not write more to stderr than a pipe holds.
    pub fn finish(mut self) -> io::Result<(ExitStatus, String, String)> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut pipe) = self.stdout.take() {
            pipe.read_to_end(&mut stdout)?;
        }
        if let Some(mut pipe) = self.stderr.take() {
            pipe.read_to_end(&mut stderr)?;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((self.wait()?, text(&stdout), text(&stderr)))
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Neither does anything to one that has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
