//! `cargo xtask btf-fixtures`: extracts from each kernel of the matrix the types that the layout is resolved
//! from, as BTF of some kilobytes, so that the layout is tested without root and without a VM. The command
//! needs neither: the BTF is a section of the kernel in its compressed image.
//!
//! The same kernel always gives the same bytes.

mod image;
mod trimming;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use self::{
    image::{section, vmlinux},
    trimming::trimmed,
};
use crate::{
    kernels::{Kernel, MATRIX},
    packages::{self, Tool},
    paths,
};

#[derive(Args)]
pub struct Arguments {
    /// Raw BTF to make one fixture from, instead of the kernels of the matrix
    #[arg(long, requires = "release")]
    btf: Option<PathBuf>,
    /// The release of the kernel with that BTF
    #[arg(long, requires = "btf")]
    release: Option<String>,
}

const DECOMPRESSORS: &[Tool] = &[
    Tool {
        path: "lz4",
        package: "lz4",
    },
    Tool {
        path: "xz",
        package: "xz-utils",
    },
    Tool {
        path: "zstd",
        package: "zstd",
    },
];

/// Writes the fixtures, and keeps those of other releases: a layout once resolved must stay resolvable.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let (Some(btf), Some(release)) = (&arguments.btf, &arguments.release) {
        let bytes = fs::read(btf).with_context(|| format!("cannot read {}", btf.display()))?;
        write(release, &bytes)?;
        return Ok(ExitCode::SUCCESS);
    }
    packages::ensure(DECOMPRESSORS)?;
    for kernel in MATRIX {
        of_kernel(kernel).with_context(|| format!("the fixture of {}", kernel.label))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn of_kernel(kernel: &Kernel) -> Result<()> {
    let fetched = kernel.fetch()?;
    let vmlinux = vmlinux(&fetched.image)?;
    write(&fetched.release, section(&vmlinux, b".BTF")?)
}

fn write(release: &str, btf: &[u8]) -> Result<()> {
    let directory = paths::root().join("keepalive-user/tests/btf");
    fs::create_dir_all(&directory).context("cannot make the directory of fixtures")?;
    let path = directory.join(format!("{release}.btf"));
    let trimmed = trimmed(btf)?;
    fs::write(&path, &trimmed).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("[btf] {} ({} bytes)", path.display(), trimmed.len());
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let found = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    found
        .map(|bytes| u32::from_le_bytes(*bytes))
        .with_context(|| format!("truncated at byte {at}"))
}

fn string(bytes: &[u8], at: usize) -> &[u8] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
