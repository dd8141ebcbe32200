//! The seccomp filter: the system calls that a confined command may still make, with the arguments
//! they may have. Any other fails with EPERM, and is logged by the kernel (audit); it kills nothing:
//! a tracer that ends on a production machine is worse than one whose call fails.

use std::{collections::BTreeMap, io};

use anyhow::{Context, Result, ensure};
use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::Needs;

/// Whatever its arguments.
const ALWAYS: &[c_long] = &[
    // Files that are open, and names of files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_open_by_handle_at,
    libc::SYS_getdents64,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    // Memory; mmap and mprotect are below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads; clone is below.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Waiting and clocks.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    // The machine and ourselves.
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    // What signals wake the event loop with: a socket pair that is open already.
    libc::SYS_recvfrom,
];

/// Older names of the same, which some C libraries use where there are such.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Only for those that create files later.
const FILES: &[c_long] = &[
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_fchmod,
    libc::SYS_flock,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(not(target_arch = "riscv64"))]
    libc::SYS_renameat,
];

/// Only for those that list sockets again: the self-test's connection, and copies of sockets.
const LISTING: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
];

/// `enum bpf_cmd`: what a tracer asks of objects it holds. None of them loads or makes anything.
const BPF: &[u32] = &[
    1,  // BPF_MAP_LOOKUP_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    10, // BPF_PROG_TEST_RUN: looks at one socket
    15, // BPF_OBJ_GET_INFO_BY_FD
    24, // BPF_MAP_LOOKUP_BATCH
    28, // BPF_LINK_CREATE: one per walk of an iterator that is loaded
    33, // BPF_ITER_CREATE
];

/// Terminals, non-blocking files, and which kind of namespace a file is. Not TIOCSTI.
const IOCTLS: &[libc::Ioctl] = &[
    libc::TCGETS,
    libc::TCSETS,
    libc::TCSETSW,
    libc::TCSETSF,
    libc::TCGETS2,
    libc::TCSETS2,
    libc::TCSETSW2,
    libc::TCSETSF2,
    libc::TIOCGWINSZ,
    libc::FIONBIO,
    libc::FIONREAD,
    libc::FIOCLEX,
    NS_GET_NSTYPE,
];
/// `linux/nsfs.h`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filter for the calling thread and those that it starts; how many system calls it lets through.
pub fn restrict(needs: &Needs) -> Result<usize> {
    let (count, programs) = programs(needs)?;
    for program in &programs {
        install(program)?;
    }
    Ok(count)
}

/// The names' numbers that are allowed, and the programs to install, in order.
fn programs(needs: &Needs) -> Result<(usize, [BpfProgram; 2])> {
    let rules = rules(needs)?;
    let count = rules.len();
    let allowed = compile(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
    )?;
    // Its flags are in memory, where no filter sees them: without it the C library takes clone. Of
    // two filters the stricter counts, so the other lets it through.
    let no_clone3 = compile(
        Rules::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
    )?;
    // The second cannot be followed by a third.
    Ok((count, [no_clone3, allowed]))
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, matched, here)?.try_into()?)
}

/// As `seccompiler::apply_filter`, and refused calls are logged.
fn install(program: &[sock_filter]) -> Result<()> {
    let program = libc::sock_fprog {
        len: program.len().try_into().context("the filter is too long")?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies the program, whose pointer and length are those of the slice.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG,
            &raw const program,
        )
    };
    ensure!(result == 0, "{}", io::Error::last_os_error());
    Ok(())
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
        rules.extend(calls.iter().map(|&call| (call, Vec::new())));
    }
    if writes {
        rules.insert(libc::SYS_openat, Vec::new());
    } else {
        rules.insert(libc::SYS_openat, vec![opens_to_read(2)?]);
    }
    #[cfg(target_arch = "x86_64")]
    if !writes {
        rules.insert(libc::SYS_open, vec![opens_to_read(1)?]);
    }
    rules.extend(process_rules()?);
    let ioctls = IOCTLS.iter().map(|&request| equals(1, request));
    rules.insert(libc::SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    if needs.bpf {
        let commands = BPF.iter().map(|&command| equals(0, command.into()));
        rules.insert(libc::SYS_bpf, commands.collect::<Result<_, _>>()?);
    }
    if needs.listing {
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        let families = families.iter().map(|&family| equals(0, family as u64));
        rules.insert(libc::SYS_socket, families.collect::<Result<_, _>>()?);
        rules.insert(libc::SYS_sendto, Vec::new());
    }
    if needs.namespaces {
        let network = libc::CLONE_NEWNET as u64;
        rules.insert(libc::SYS_setns, vec![equals(1, network)?]);
    }
    Ok(rules)
}

/// Memory that is not executable, threads that are not processes, and signals to ourselves.
fn process_rules() -> Result<Rules, BackendError> {
    let no_code = |index| is(index, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    let a_thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    let own_limits = vec![equals(0, 0)?, equals(0, std::process::id().into())?];
    // No address: only to those that it is connected to.
    // What wakes an event loop after a signal.
    let pair = equals(0, libc::AF_UNIX as u64)?;
    let connected = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    Ok(Rules::from([
        (libc::SYS_mmap, vec![no_code(2)?]),
        (libc::SYS_mprotect, vec![no_code(2)?]),
        (
            libc::SYS_clone,
            vec![is(0, a_thread, libc::CLONE_THREAD as u64)?],
        ),
        (
            libc::SYS_tgkill,
            vec![equals(0, std::process::id().into())?],
        ),
        (libc::SYS_socketpair, vec![pair]),
        (libc::SYS_prctl, vec![equals(0, libc::PR_SET_NAME as u64)?]),
        (libc::SYS_prlimit64, own_limits),
        (libc::SYS_sendto, vec![SeccompRule::new(vec![connected])?]),
    ]))
}

/// The flags of open(2), which are at this place: nothing is created, written or cut.
fn opens_to_read(index: u8) -> Result<SeccompRule, BackendError> {
    let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
    is(index, SeccompCmpOp::MaskedEq(writing as u64), 0)
}

fn equals(index: u8, value: u64) -> Result<SeccompRule, BackendError> {
    is(index, SeccompCmpOp::Eq, value)
}

/// A condition on the low 32 bits of an argument.
fn is(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?;
    SeccompRule::new(vec![condition])
}
