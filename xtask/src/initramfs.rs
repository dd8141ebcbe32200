//! The guest's file system: a cpio archive with the init, the modules that it loads, and the requested
//! binaries. It has no distribution, and a shell only on request.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{packages, run};

/// Modules that the scenarios need and that are not built into Debian's kernels.
const MODULES: &[&str] = &["veth", "tcp_diag"];
/// Programs of the host that the scenarios compare with.
pub const WITNESSES: &[&str] = &["ss"];

/// Builds the archive in memory.
///
/// `binaries` are (name below /bin, file on the host); init runs `command`.
pub fn build(
    init: &Path,
    binaries: &[(&str, &Path)],
    modules: &Path,
    command: &[String],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in [
        "bin", "dev", "etc", "proc", "sys", "tmp", "run", "modules", "root",
    ] {
        archive.add_directory(&Path::new("/").join(directory));
    }
    archive.add("init", PROGRAM, &read(init)?);
    for (name, file) in binaries {
        archive.add(&format!("bin/{name}"), PROGRAM, &read(file)?);
    }
    for witness in WITNESSES {
        add_program(&mut archive, witness)?;
    }
    let mut order = Vec::new();
    for module in MODULES {
        collect(modules, module, &mut order)?;
    }
    for (index, path) in order.iter().enumerate() {
        // The names sort in load order: init loads modules in the order of their names.
        archive.add(
            &format!("modules/{index:02}.ko"),
            FILE,
            &decompressed(path)?,
        );
    }
    archive.add("etc/command", FILE, command.join("\0").as_bytes());
    Ok(archive.finish())
}

/// Adds a program of the host with its shared libraries, each at its own path.
fn add_program(archive: &mut Archive, name: &str) -> Result<()> {
    let path = packages::find(name).with_context(|| format!("{name} is not installed"))?;
    archive.add(&format!("bin/{name}"), PROGRAM, &read(&path)?);
    let libraries = Command::new("ldd").arg(&path).output();
    let libraries = libraries.context("cannot run ldd")?.stdout;
    for library in shared_objects(&run::text(&libraries)) {
        let mut directories: Vec<&Path> = library.ancestors().skip(1).collect();
        directories.reverse();
        for directory in directories {
            archive.add_directory(directory);
        }
        let below_root = library.strip_prefix("/").unwrap_or(&library);
        archive.add(&below_root.to_string_lossy(), PROGRAM, &read(&library)?);
    }
    Ok(())
}

/// Paths in the output of ldd(1): `libc.so.6 => /lib/libc.so.6 (0x…)`, `/lib64/ld.so.2 (0x…)`.
fn shared_objects(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Adds a module after those that it depends on.
fn collect(modules: &Path, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
    let path = find(&modules.join("kernel"), name)
        .with_context(|| format!("{} has no module {name}", modules.display()))?;
    if order.contains(&path) {
        return Ok(());
    }
    for dependency in dependencies(&decompressed(&path)?) {
        collect(modules, &dependency, order)?;
    }
    order.push(path);
    Ok(())
}

/// The file `name.ko`, compressed or not; file names use `-` and `_` interchangeably.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if let Some((stem, _)) = path.file_name()?.to_str()?.split_once(".ko")
            && stem.replace('-', "_") == name.replace('-', "_")
        {
            return Some(path);
        }
    }
    None
}

/// `depends=a,b` of a module's information section.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..]
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    run::text(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return read(path),
    };
    let output = Command::new(program)
        .args(["-d", "-c"])
        .arg(path)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "cannot decompress {}",
        path.display()
    );
    Ok(output.stdout)
}

const DIRECTORY: u32 = 0o40_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// A cpio archive in the "newc" format (the kernel's Documentation/driver-api/early-userspace).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let links = 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            contents.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            // Writing to a vector cannot fail.
            let _ = write!(self.bytes, "{field:08x}");
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    /// Adds a directory below the root, unless it exists already.
    fn add_directory(&mut self, path: &Path) {
        let Ok(path) = path.strip_prefix("/") else {
            return;
        };
        if path.as_os_str().is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.add(&path.to_string_lossy(), DIRECTORY, &[]);
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_newc() {
        let mut archive = Archive::default();
        archive.add("bin", DIRECTORY, &[]);
        archive.add("bin/a", PROGRAM, b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(bytes.len() % 4, 0);
        let header = 6 + 13 * 8;
        let second = (header + "bin".len() + 1).next_multiple_of(4);
        assert_eq!(
            &bytes[second + 6 + 8..second + 6 + 16],
            b"000081ed",
            "mode of the second entry"
        );
        assert_eq!(
            &bytes[second + 6 + 48..second + 6 + 56],
            b"00000005",
            "size of the second entry"
        );
        let contents = second + (header + "bin/a".len() + 1).next_multiple_of(4);
        assert_eq!(&bytes[contents..contents + 5], b"hello");
    }

    #[test]
    fn reads_shared_objects() {
        let text = "\tlinux-vdso.so.1 (0x7f)\n\tlibelf.so.1 => /lib/x/libelf.so.1 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            shared_objects(text),
            [
                Path::new("/lib/x/libelf.so.1"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn reads_module_dependencies() {
        assert_eq!(
            dependencies(b"x\0license=GPL\0depends=a,b_c\0intree=Y\0"),
            ["a", "b_c"]
        );
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }
}
