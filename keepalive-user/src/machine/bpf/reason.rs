//! Why the kernel refused, in one line: the call, the kernel's error, and what such an error means.

use aya::programs::ProgramError;
use rustix::io::Errno;

use crate::machine::privileges;

/// One line for an error of loading or attaching. The verifier's log goes to `-v`.
pub fn reason(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut errno = None;
    for cause in error.chain() {
        let text = match cause.downcast_ref() {
            Some(ProgramError::LoadError { verifier_log, .. }) => {
                let log = verifier_log.to_string();
                // Empty if the program did not reach the verifier.
                if !log.is_empty() {
                    log::debug!("verifier log: {log}");
                }
                "BPF_PROG_LOAD".to_owned()
            }
            _ => cause.to_string(),
        };
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            errno = Errno::from_io_error(error).or(errno);
        }
        // Transparent wrappers repeat what they wrap.
        if !text.is_empty() && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    let meaning = errno
        .and_then(meaning)
        .map_or(String::new(), |meaning| format!(": {meaning}"));
    format!("{}{meaning}", parts.join(": "))
}

/// The usual meaning of an errno of bpf(2), and the remedy.
fn meaning(errno: Errno) -> Option<String> {
    let missing = privileges::missing();
    // ENOTSUPP (include/linux/errno.h): the architecture or the function does not support a trampoline.
    const ENOTSUPP: Errno = Errno::from_raw_os_error(524);
    match errno {
        Errno::PERM | Errno::ACCESS if !missing.is_empty() => Some(privileges::remedy(&missing)),
        Errno::PERM | Errno::ACCESS => {
            Some("forbidden by this kernel's policy (lockdown, an LSM, or memory limits before 5.11: ulimit -l)".to_owned())
        }
        ENOTSUPP | Errno::BUSY => Some("this kernel has no BPF trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)".to_owned()),
        Errno::NOMEM => Some("not enough memory, or a limit on it (--ring-bytes makes it less)".to_owned()),
        Errno::NOSYS => Some("this kernel has no bpf(2)".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_the_call_the_error_and_the_meaning() {
        let error = anyhow::Error::from(ProgramError::SyscallError(aya::sys::SyscallError {
            call: "bpf_raw_tracepoint_open",
            io_error: std::io::Error::from_raw_os_error(524),
        }));
        let text = reason(&error.context("fentry tcp_keepalive_timer"));
        assert!(
            text.starts_with("fentry tcp_keepalive_timer: `bpf_raw_tracepoint_open` failed: "),
            "{text}"
        );
        assert!(
            text.ends_with("(CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)"),
            "{text}"
        );
    }
}
