//! The seccomp filter: the system calls that a confined command may still make, with the arguments
//! they may have. Any other call fails with EPERM, and the kernel logs it (audit). The filter does not kill
//! the process: a tracer that dies on a production machine is worse than one with a failing call.

use std::collections::BTreeMap;

use anyhow::Result;
use linux_raw_sys::{
    errno::{ENOSYS, EPERM},
    general::{
        self as nr, CLONE_NEWNET, CLONE_THREAD, O_ACCMODE, O_APPEND, O_CREAT, O_TRUNC, PROT_EXEC,
    },
    ioctl, net, prctl,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::Needs;
use crate::machine::syscall;

/// Allowed with any arguments.
const ALWAYS: &[u32] = &[
    // Files that are open, and names of files.
    nr::__NR_read,
    nr::__NR_write,
    nr::__NR_readv,
    nr::__NR_writev,
    nr::__NR_pread64,
    nr::__NR_pwrite64,
    nr::__NR_lseek,
    nr::__NR_close,
    nr::__NR_fstat,
    nr::__NR_newfstatat,
    nr::__NR_statx,
    nr::__NR_fstatfs,
    nr::__NR_readlinkat,
    nr::__NR_open_by_handle_at,
    nr::__NR_getdents64,
    nr::__NR_faccessat,
    nr::__NR_faccessat2,
    nr::__NR_getcwd,
    nr::__NR_fcntl,
    nr::__NR_dup,
    nr::__NR_dup3,
    nr::__NR_fsync,
    nr::__NR_fdatasync,
    nr::__NR_ftruncate,
    // Memory; mmap and mprotect are below.
    nr::__NR_munmap,
    nr::__NR_mremap,
    nr::__NR_madvise,
    nr::__NR_brk,
    nr::__NR_membarrier,
    // Threads; clone is below.
    nr::__NR_clone3,
    nr::__NR_futex,
    nr::__NR_set_robust_list,
    nr::__NR_rseq,
    nr::__NR_sched_yield,
    nr::__NR_sched_getaffinity,
    nr::__NR_getcpu,
    nr::__NR_gettid,
    nr::__NR_getpid,
    nr::__NR_exit,
    nr::__NR_exit_group,
    // Signals.
    nr::__NR_rt_sigaction,
    nr::__NR_rt_sigprocmask,
    nr::__NR_rt_sigreturn,
    nr::__NR_rt_sigtimedwait,
    nr::__NR_sigaltstack,
    nr::__NR_restart_syscall,
    // Waiting and clocks.
    nr::__NR_ppoll,
    nr::__NR_pselect6,
    nr::__NR_epoll_create1,
    nr::__NR_epoll_ctl,
    nr::__NR_epoll_pwait,
    nr::__NR_eventfd2,
    nr::__NR_pipe2,
    nr::__NR_timerfd_create,
    nr::__NR_timerfd_settime,
    nr::__NR_nanosleep,
    nr::__NR_clock_gettime,
    nr::__NR_clock_getres,
    nr::__NR_clock_nanosleep,
    nr::__NR_gettimeofday,
    // The machine and ourselves.
    nr::__NR_getrandom,
    nr::__NR_uname,
    nr::__NR_sysinfo,
    nr::__NR_getrusage,
    nr::__NR_getuid,
    nr::__NR_geteuid,
    nr::__NR_getgid,
    nr::__NR_getegid,
    nr::__NR_capget,
    // A signal handler wakes the event loop through a socket pair that is open already.
    nr::__NR_recvfrom,
];

/// Older variants of the same calls, which some C libraries use where they exist.
#[cfg(target_arch = "x86_64")]
const OLDER: &[u32] = &[
    nr::__NR_stat,
    nr::__NR_lstat,
    nr::__NR_access,
    nr::__NR_readlink,
    nr::__NR_poll,
    nr::__NR_select,
    nr::__NR_epoll_wait,
    nr::__NR_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[u32] = &[];

/// Only for commands that create files later.
const FILES: &[u32] = &[
    nr::__NR_renameat2,
    nr::__NR_unlinkat,
    nr::__NR_linkat,
    nr::__NR_fchmod,
    nr::__NR_flock,
    #[cfg(target_arch = "x86_64")]
    nr::__NR_rename,
    #[cfg(target_arch = "x86_64")]
    nr::__NR_unlink,
    #[cfg(target_arch = "x86_64")]
    nr::__NR_link,
    #[cfg(not(target_arch = "riscv64"))]
    nr::__NR_renameat,
];

/// Only for commands that list sockets again: the self-test's connection, and copies of sockets.
const LISTING: &[u32] = &[
    nr::__NR_bind,
    nr::__NR_listen,
    nr::__NR_accept4,
    nr::__NR_connect,
    nr::__NR_getsockname,
    nr::__NR_getpeername,
    nr::__NR_getsockopt,
    nr::__NR_setsockopt,
    nr::__NR_shutdown,
    nr::__NR_pidfd_open,
    nr::__NR_pidfd_getfd,
];

/// `enum bpf_cmd`: the commands on objects that a tracer holds. None of them loads a program or creates a map.
const BPF: &[u32] = &[
    1,  // BPF_MAP_LOOKUP_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    10, // BPF_PROG_TEST_RUN: reads one socket
    15, // BPF_OBJ_GET_INFO_BY_FD
    24, // BPF_MAP_LOOKUP_BATCH
    28, // BPF_LINK_CREATE: one per walk of an iterator that is loaded
    33, // BPF_ITER_CREATE
];

/// Terminals, non-blocking files, and which kind of namespace a file is. Not TIOCSTI.
const IOCTLS: &[u32] = &[
    ioctl::TCGETS,
    ioctl::TCSETS,
    ioctl::TCSETSW,
    ioctl::TCSETSF,
    ioctl::TCGETS2,
    ioctl::TCSETS2,
    ioctl::TCSETSW2,
    ioctl::TCSETSF2,
    ioctl::TIOCGWINSZ,
    ioctl::FIONBIO,
    ioctl::FIONREAD,
    ioctl::FIOCLEX,
    ioctl::NS_GET_NSTYPE,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filter for the calling thread and those that it starts; returns the number of allowed calls.
pub fn restrict(needs: &Needs) -> Result<usize> {
    let (count, programs) = programs(needs)?;
    for program in &programs {
        syscall::set_seccomp_filter(program)?;
    }
    Ok(count)
}

/// The number of allowed system calls, and the programs to install, in order.
fn programs(needs: &Needs) -> Result<(usize, [BpfProgram; 2])> {
    let rules = rules(needs)?;
    let count = rules.len();
    let allowed = compile(rules, SeccompAction::Errno(EPERM), SeccompAction::Allow)?;
    // The flags of clone3 are in memory, which no filter can read: with ENOSYS the C library uses clone
    // instead. Of two filters the stricter result counts, so the other one allows clone3.
    let no_clone3 = compile(
        Rules::from([(nr::__NR_clone3.into(), Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(ENOSYS),
    )?;
    // After the second filter no third one can be installed.
    Ok((count, [no_clone3, allowed]))
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, here)?.try_into()?)
}

fn rules(needs: &Needs) -> Result<Rules, BackendError> {
    let writes = !needs.directories.is_empty();
    let mut rules = Rules::new();
    let groups = [
        (true, ALWAYS),
        (true, OLDER),
        (writes, FILES),
        (needs.listing, LISTING),
    ];
    for (_, calls) in groups.into_iter().filter(|(wanted, _)| *wanted) {
        rules.extend(calls.iter().map(|&call| (call.into(), Vec::new())));
    }
    if writes {
        rules.insert(nr::__NR_openat.into(), Vec::new());
    } else {
        rules.insert(nr::__NR_openat.into(), vec![opens_to_read(2)?]);
    }
    #[cfg(target_arch = "x86_64")]
    if !writes {
        rules.insert(nr::__NR_open.into(), vec![opens_to_read(1)?]);
    }
    rules.extend(process_rules()?);
    let ioctls = IOCTLS.iter().map(|&request| equals(1, request.into()));
    rules.insert(nr::__NR_ioctl.into(), ioctls.collect::<Result<_, _>>()?);
    if needs.bpf {
        let commands = BPF.iter().map(|&command| equals(0, command.into()));
        rules.insert(nr::__NR_bpf.into(), commands.collect::<Result<_, _>>()?);
    }
    if needs.listing {
        let families = [net::AF_INET, net::AF_INET6, net::AF_NETLINK];
        let families = families.iter().map(|&family| equals(0, family.into()));
        rules.insert(nr::__NR_socket.into(), families.collect::<Result<_, _>>()?);
        rules.insert(nr::__NR_sendto.into(), Vec::new());
    }
    if needs.namespaces {
        let network = CLONE_NEWNET.into();
        rules.insert(nr::__NR_setns.into(), vec![equals(1, network)?]);
    }
    Ok(rules)
}

/// Allows memory that is not executable, threads but not processes, and signals to this process.
fn process_rules() -> Result<Rules, BackendError> {
    let no_code = |index| is(index, SeccompCmpOp::MaskedEq(PROT_EXEC.into()), 0);
    let a_thread = SeccompCmpOp::MaskedEq(CLONE_THREAD.into());
    let own_limits = vec![equals(0, 0)?, equals(0, std::process::id().into())?];
    // Without an address: only to the connected peer. It wakes the event loop after a signal.
    let pair = equals(0, net::AF_UNIX.into())?;
    let connected = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    Ok(Rules::from([
        (nr::__NR_mmap.into(), vec![no_code(2)?]),
        (nr::__NR_mprotect.into(), vec![no_code(2)?]),
        (
            nr::__NR_clone.into(),
            vec![is(0, a_thread, CLONE_THREAD.into())?],
        ),
        (
            nr::__NR_tgkill.into(),
            vec![equals(0, std::process::id().into())?],
        ),
        (nr::__NR_socketpair.into(), vec![pair]),
        (
            nr::__NR_prctl.into(),
            vec![equals(0, prctl::PR_SET_NAME.into())?],
        ),
        (nr::__NR_prlimit64.into(), own_limits),
        (
            nr::__NR_sendto.into(),
            vec![SeccompRule::new(vec![connected])?],
        ),
    ]))
}

/// The flags of open(2) are the argument at `index`: no file is created, written or truncated.
fn opens_to_read(index: u8) -> Result<SeccompRule, BackendError> {
    let writing = O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND;
    is(index, SeccompCmpOp::MaskedEq(writing.into()), 0)
}

fn equals(index: u8, value: u64) -> Result<SeccompRule, BackendError> {
    is(index, SeccompCmpOp::Eq, value)
}

/// A condition on the low 32 bits of an argument.
fn is(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?;
    SeccompRule::new(vec![condition])
}
