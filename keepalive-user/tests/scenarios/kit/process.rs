//! A program that is killed when the scenario that started it ends, whether it passes or fails.

use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};

/// A running program; it is killed and reaped on drop.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Waits for its end, and returns what it wrote to stdout and stderr if they are pipes without
    /// another reader. stdout is read first, so the program must not write more to stderr than a
    /// pipe holds.
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
        // Both calls have no effect on a process that was already reaped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
