//! The BTF in a kernel's image.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use super::{string, word};
use crate::{paths, run};

/// The kernel in a bzImage (Documentation/arch/x86/boot.rst): compressed, after the sectors of the real-mode
/// code, followed by its length.
pub fn vmlinux(image: &Path) -> Result<Vec<u8>> {
    const SECTOR: usize = 512;
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    ensure!(bytes.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let setup = match bytes[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let [at, length] = [0x248, 0x24c].map(|at| word(&bytes, at));
    let start = (setup + 1) * SECTOR + at? as usize;
    let end = start + (length? as usize).saturating_sub(4);
    let payload = bytes.get(start..end).context("the image is truncated")?;
    let program = match payload.first_chunk() {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => "zstd",
        Some([0x02, 0x21, 0x4c, 0x18]) => "lz4",
        Some([0xfd, b'7', b'z', b'X']) => "xz",
        other => bail!("unknown compression magic {other:x?}"),
    };
    let file = paths::target("btf-payload");
    fs::write(&file, payload).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(program);
    command.arg("-dc").arg(&file);
    let output = run::step(&format!("decompress {}", image.display()), &mut command);
    fs::remove_file(&file).context("cannot remove the compressed kernel")?;
    Ok(output?.stdout)
}

/// A section of a 64-bit little-endian ELF file.
pub fn section<'a>(elf: &'a [u8], name: &[u8]) -> Result<&'a [u8]> {
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit ELF file");
    let long = |at: usize| -> Result<usize> {
        let bytes = elf.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
        let value = u64::from_le_bytes(*bytes.context("the ELF file is truncated")?);
        Ok(usize::try_from(value)?)
    };
    let short = |at| word(elf, at).map(|word| word as usize & 0xffff);
    let headers = long(0x28)?;
    let (size, count, names) = (short(0x3a)?, short(0x3c)?, short(0x3e)?);
    let header = |index: usize| headers + index * size;
    let names = long(header(names) + 0x18)?;
    for index in 0..count {
        let at = header(index);
        if string(elf, names + word(elf, at)? as usize) == name {
            let (start, length) = (long(at + 0x18)?, long(at + 0x20)?);
            return elf
                .get(start..start + length)
                .context("the section is truncated");
        }
    }
    bail!("no section {}", String::from_utf8_lossy(name))
}
