//! The kernel's types, and the layout that is resolved in them.

use anyhow::Result;
use aya::Btf as AyaBtf;

use super::{
    Options,
    btf::Btf,
    bytes::Bytes,
    layout::{self, Resolved},
};
use crate::{
    core::exit::{Exit, Refusal},
    machine::files,
};

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// Longest BTF, bytes; a distribution's kernel has some 6 MB.
const BTF: u64 = 256 << 20;

/// The kernel's types, read once for all backends.
pub struct Kernel {
    pub resolved: Resolved,
    /// aya's view of the running kernel's own BTF; trampolines need it.
    pub btf: Option<AyaBtf>,
}

impl Kernel {
    /// Reads the BTF and resolves the layout in it.
    ///
    /// # Errors
    /// No BTF, unreadable BTF, or a required field that it does not have.
    pub fn read(options: &Options) -> Result<Self> {
        let path = options.btf.clone().unwrap_or_else(|| KERNEL_BTF.into());
        // An unreadable file of `--btf` is the user's error; a missing BTF of the kernel is the kernel's.
        let exit = if options.btf.is_some() {
            Exit::Failure
        } else {
            Exit::Unsupported
        };
        let bytes = Bytes::of(&path, BTF).map_err(|error| {
            let hint = match options.btf {
                Some(_) => "give --btf a readable file of raw BTF",
                None => {
                    "this kernel was built without CONFIG_DEBUG_INFO_BTF: give its BTF with --btf FILE"
                }
            };
            Refusal::new(exit, format!("no BTF: {error:#}; {hint}"))
        })?;
        let kernel = match options.btf {
            Some(_) => "the kernel of this file".to_owned(),
            None => format!("Linux {}", files::kernel_release()),
        };
        let unusable = |error: anyhow::Error| {
            Refusal::new(
                exit,
                format!("cannot use the BTF in {}: {error:#}", path.display()),
            )
        };
        // Both parsers read megabytes and so run in parallel. aya needs the BTF of the running kernel.
        let (resolved, aya) = std::thread::scope(|scope| {
            let resolved =
                scope.spawn(|| Btf::parse(&bytes).and_then(|btf| layout::resolve(&btf, &kernel)));
            let aya = match options.btf {
                None => AyaBtf::parse(&bytes, aya::Endianness::default()).ok(),
                Some(_) => AyaBtf::from_sys_fs().ok(),
            };
            (resolved.join(), aya)
        });
        let resolved = resolved.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Self {
            resolved: resolved.map_err(unusable)?,
            btf: aya,
        })
    }
}
