//! The system calls a plugin may make while it is probed.
//!
//! Three filters, of whose answers the kernel takes the strictest: one allows a short list and lets all else fail with
//! EPERM; one stops, and reports, what no library does when it opens; one sends glibc from `clone3`, whose flags lie in memory
//! that a filter cannot read, back to `clone`, whose flags it can. An allow-list also refuses the second numbering of x86-64
//! (x32), under which a deny-list would miss everything.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type FilterResult<T> = Result<T, Box<dyn std::error::Error>>;

/// Always allowed: memory, time, threads' locks, signals to itself, reading what is open.
const ALLOWED: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// The older calls that only x86-64 still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[c_long] = &[];

/// Refused and reported, whatever the arguments: processes, network, other processes, the file system, the kernel.
const REPORTED: &[(c_long, &str)] = &[
    (libc::SYS_accept, "accept"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_bpf, "bpf"),
    (libc::SYS_chroot, "chroot"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_fsopen, "fsopen"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_init_module, "init_module"),
    (libc::SYS_io_uring_setup, "io_uring_setup"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_listen, "listen"),
    (libc::SYS_memfd_create, "memfd_create"),
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_openat2, "openat2"),
    (libc::SYS_perf_event_open, "perf_event_open"),
    (libc::SYS_pidfd_open, "pidfd_open"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_process_vm_readv, "process_vm_readv"),
    (libc::SYS_process_vm_writev, "process_vm_writev"),
    (libc::SYS_ptrace, "ptrace"),
    (libc::SYS_reboot, "reboot"),
    (libc::SYS_renameat, "renameat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_setresuid, "setresuid"),
    (libc::SYS_setuid, "setuid"),
    (libc::SYS_socket, "socket"),
    (libc::SYS_socketpair, "socketpair"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_tkill, "tkill"),
    (libc::SYS_truncate, "truncate"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_unshare, "unshare"),
];

#[cfg(target_arch = "x86_64")]
const REPORTED_HERE: &[(c_long, &str)] = &[
    (libc::SYS_chmod, "chmod"),
    (libc::SYS_chown, "chown"),
    (libc::SYS_creat, "creat"),
    (libc::SYS_fork, "fork"),
    (libc::SYS_link, "link"),
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_mknod, "mknod"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_vfork, "vfork"),
];
#[cfg(target_arch = "aarch64")]
const REPORTED_HERE: &[(c_long, &str)] = &[];

/// What the user is told of a refused call whose arguments decided.
const REPORTED_BY_ARGUMENT: &[(c_long, &str)] = &[
    (libc::SYS_clone, "clone (a new process)"),
    (libc::SYS_kill, "kill (another process)"),
    (libc::SYS_tgkill, "tgkill (another process)"),
    (libc::SYS_openat, "openat (a file to write)"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open (a file to write)"),
];

/// The name of a call that the filter reports, or its number.
pub fn system_call_name(number: c_long) -> String {
    [REPORTED, REPORTED_HERE, REPORTED_BY_ARGUMENT]
        .concat()
        .into_iter()
        .find(|&(other, _)| other == number)
        .map_or_else(|| format!("system call {number}"), |(_, name)| name.to_owned())
}

/// Installs the filters for this thread and all that it starts.
pub(super) fn install() -> FilterResult<()> {
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filters = [
        compile(redirected(), SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?,
        compile(reported()?, SeccompAction::Allow, SeccompAction::Trap)?,
        // Last: once it holds, no further filter can be installed.
        compile(allowed()?, refuse, SeccompAction::Allow)?,
    ];
    for filter in &filters {
        apply_filter(filter)?;
    }
    Ok(())
}

fn compile(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> FilterResult<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, otherwise, on_match, arch)?.try_into()?)
}

fn redirected() -> Rules {
    Rules::from([(libc::SYS_clone3, Vec::new())])
}

fn allowed() -> FilterResult<Rules> {
    let pid = u64::from(std::process::id());
    let mut rules: Rules =
        [ALLOWED, ALLOWED_HERE, &[libc::SYS_clone3]].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Its own limits, which it can only lower.
    rules.insert(libc::SYS_prlimit64, vec![rule(0, SeccompCmpOp::Eq, 0)?]);
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule(0, SeccompCmpOp::Eq, pid)?]);
    }
    let fcntl = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
    rules.insert(libc::SYS_fcntl, any_of(1, &fcntl.map(|command| command as u64))?);
    let prctl = [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];
    rules.insert(libc::SYS_prctl, any_of(0, &prctl.map(|command| command as u64))?);
    Ok(rules)
}

fn reported() -> FilterResult<Rules> {
    let pid = u64::from(std::process::id());
    let mut rules: Rules = [REPORTED, REPORTED_HERE].concat().into_iter().map(|(call, _)| (call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64), 0)?]);
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule(0, SeccompCmpOp::Ne, pid)?]);
    }
    rules.insert(libc::SYS_openat, to_write(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, to_write(1)?);
    Ok(rules)
}

/// An open that could write, by its flags in argument `index`.
fn to_write(index: u8) -> FilterResult<Vec<SeccompRule>> {
    let access = libc::O_ACCMODE as u64;
    let mut rules = vec![
        rule(index, SeccompCmpOp::MaskedEq(access), libc::O_WRONLY as u64)?,
        rule(index, SeccompCmpOp::MaskedEq(access), libc::O_RDWR as u64)?,
    ];
    for flag in [libc::O_CREAT, libc::O_TRUNC] {
        rules.push(rule(index, SeccompCmpOp::MaskedEq(flag as u64), flag as u64)?);
    }
    Ok(rules)
}

fn any_of(index: u8, values: &[u64]) -> FilterResult<Vec<SeccompRule>> {
    values.iter().map(|&value| rule(index, SeccompCmpOp::Eq, value)).collect()
}

/// All these arguments are ints to the kernel, so the upper half of the register is not looked at.
fn rule(index: u8, op: SeccompCmpOp, value: u64) -> FilterResult<SeccompRule> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}
