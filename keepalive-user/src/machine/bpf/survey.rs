//! # The survey
//!
//! The backend check of `doctor`: tries every hook of a backend and reports each result, instead of
//! stopping at the first refusal.

use super::{
    Kernel, Options,
    hooks::{Hook, hooks_of, state_change_of},
    load, prove, reason,
    self_test::{Depth, Learned},
};
use crate::core::event::Backend;

/// The result for one backend.
pub struct Survey {
    pub backend: Backend,
    /// The error if the object or its maps could not be loaded.
    pub load_error: Option<String>,
    /// The result of the self-test, or the reason of its failure.
    pub self_test: Result<Learned, String>,
    /// Every hook, with the reason if it was refused.
    pub hooks: Vec<(Hook, Option<String>)>,
}

impl Survey {
    /// Tries every hook, and leaves none attached.
    pub fn of(backend: Backend, kernel: &Kernel, options: &Options) -> Self {
        let btf = kernel.btf.as_ref();
        let mut ebpf = match load(backend, kernel, options) {
            Ok(ebpf) => ebpf,
            Err(error) => {
                return Self {
                    backend,
                    load_error: Some(reason(&error)),
                    self_test: Err("not run".to_owned()),
                    hooks: Vec::new(),
                };
            }
        };
        let self_test =
            prove(backend, &mut ebpf, kernel, Depth::FirstProbe).map_err(|error| reason(&error));
        let proved = state_change_of(backend).program;
        let hooks = hooks_of(backend)
            .iter()
            .map(|hook| {
                let attached = hook.program == proved && self_test.is_ok();
                let refused = if attached {
                    None
                } else {
                    hook.attach(&mut ebpf, btf).err()
                };
                (*hook, refused.map(|error| reason(&error)))
            })
            .collect();
        Self {
            backend,
            load_error: None,
            self_test,
            hooks,
        }
    }
}
