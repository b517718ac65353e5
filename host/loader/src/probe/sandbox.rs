//! The rights a plugin has in its probe: to compute, to read the system's libraries, and to start threads.
//!
//! Four layers, each of which may be missing on some kernel without the others failing: no new privileges (required),
//! resource limits, Landlock (files, TCP, signals, abstract sockets) and a seccomp filter (system calls). [`Sandbox`] says
//! which were active. This must run in a process with one thread, before any code of the plugin.

use std::{fmt, os::fd::RawFd, sync::atomic::AtomicI32, sync::atomic::Ordering};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::set_no_new_privs,
};
use serde::{Deserialize, Serialize};

mod filter;

pub use self::filter::system_call_name;

/// Processor time that opening a plugin may take.
pub const CPU_LIMIT_S: u64 = 2;

/// What a child may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Processor time.
    pub cpu_s: u64,
    pub address_space_bytes: u64,
}

/// For opening a plugin: one with 100 MB of tables opens within, one that allocates without end does not.
pub const PROBE_LIMITS: Limits = Limits { cpu_s: CPU_LIMIT_S, address_space_bytes: 1 << 30 };

/// Open files: the standard three, the library, the report, and what ld.so opens, one at a time.
const OPEN_FILES: u64 = 128;

/// What ld.so reads to find a library's dependencies. Nothing of the user's.
const LIBRARY_FOLDERS: [&str; 9] =
    ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store"];

/// What libraries read when they start: how many processors there are, mostly.
const READABLE: [&str; 7] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/sys/devices/system/cpu",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/dev/null",
    "/dev/urandom",
];

/// The protections that a probe ran under, beside a cleared environment and a fresh process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The version of Landlock's ABI; `None` where the kernel has none.
    pub landlock: Option<u32>,
    pub seccomp: bool,
    /// Resource limits: processor time, memory, files, no core dump.
    pub limits: bool,
}

impl Sandbox {
    /// Whether code in it is kept from the user's files, the network or other processes: by Landlock, by seccomp, or by both.
    pub fn confines(&self) -> bool {
        self.landlock.is_some() || self.seccomp
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let landlock = self.landlock.map(|abi| format!("Landlock ABI {abi}"));
        let active = [landlock.as_deref(), self.seccomp.then_some("seccomp"), self.limits.then_some("rlimits")];
        let active: Vec<_> = active.into_iter().flatten().collect();
        f.write_str(&if active.is_empty() { "time limit only".to_owned() } else { active.join(", ") })?;
        for (missing, name) in [(self.landlock.is_none(), "Landlock"), (!self.seccomp, "seccomp")] {
            if missing {
                write!(f, "; no {name} on this kernel")?;
            }
        }
        Ok(())
    }
}

/// Gives up this process's rights for good. Refused system calls are told to `report`.
pub fn enter(report: RawFd, limits: &Limits) -> Result<Sandbox, String> {
    // Without it, Landlock and seccomp are refused to ordinary users, and a set-user-id program could undo them.
    set_no_new_privs(true).map_err(|error| format!("no_new_privs: {error}"))?;
    let limits = limit_resources(limits);
    let landlock = restrict_files().map_err(|error| format!("Landlock: {error}"))?;
    REPORT.store(report, Ordering::Relaxed);
    let seccomp = install_handler().is_ok() && filter::install().is_ok();
    Ok(Sandbox { landlock, seccomp, limits })
}

/// Whether every limit could be set. There is none on the number of processes: it counts all of a user's, and does not bind
/// root; seccomp refuses new processes, and the address space bounds the threads.
fn limit_resources(limits: &Limits) -> bool {
    let Limits { cpu_s, address_space_bytes } = *limits;
    let limits = [
        // Beyond the first a signal, beyond the second death; so a handler for the signal wins one second.
        (Resource::Cpu, cpu_s, cpu_s + 1),
        (Resource::As, address_space_bytes, address_space_bytes),
        (Resource::Fsize, 0, 0),
        (Resource::Nofile, OPEN_FILES, OPEN_FILES),
        (Resource::Core, 0, 0),
    ];
    let mut all = true;
    for (resource, current, maximum) in limits {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        // One that fails does not keep the others from holding.
        all &= setrlimit(resource, limit).is_ok();
    }
    all
}

/// Everything that Landlock can forbid is forbidden, but for reading the system's libraries.
fn restrict_files() -> Result<Option<u32>, RulesetError> {
    // The newest version that the crate knows. On an older kernel, what it lacks is left out.
    let abi = ABI::V9;
    let read = AccessFs::from_read(abi);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(LIBRARY_FOLDERS, read))?
        .add_rules(path_beneath_rules(READABLE, AccessFs::ReadFile | AccessFs::ReadDir))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(effective_abi as u32),
        _ => None,
    })
}

/// Where refused system calls are told; -1 before.
static REPORT: AtomicI32 = AtomicI32::new(-1);

/// Makes a refused system call fail with EPERM, and tells the parent which it was.
fn install_handler() -> Result<(), std::io::Error> {
    // SAFETY: all zero is a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_refused_call as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    // SAFETY: `on_refused_call` has the signature that SA_SIGINFO asks for, and calls async-signal-safe functions only.
    match unsafe { libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

extern "C" fn on_refused_call(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    /// `siginfo_t` of a SIGSYS on 64-bit Linux (asm-generic/siginfo.h, `_sigsys`).
    #[repr(C)]
    struct SigsysInfo {
        signo: i32,
        errno: i32,
        code: i32,
        call_address: *const libc::c_void,
        system_call: i32,
        arch: u32,
    }

    // SAFETY: the kernel gives a SIGSYS handler a siginfo of this layout.
    let number = unsafe { (*info.cast::<SigsysInfo>()).system_call };
    let mut line = [0; 16];
    let length = format_line(number, &mut line);
    // SAFETY: write(2) is async-signal-safe, and the buffer has `length` bytes.
    unsafe { libc::write(REPORT.load(Ordering::Relaxed), line.as_ptr().cast(), length) };

    // The call was not made; its result is put where the caller finds it.
    let result = -libc::EPERM;
    // SAFETY: SA_SIGINFO gives the interrupted thread's context, which is ours to change.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        #[cfg(target_arch = "x86_64")]
        {
            (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = result.into();
        }
        #[cfg(target_arch = "aarch64")]
        {
            (*context).uc_mcontext.regs[0] = i64::from(result) as u64;
        }
    }
}

/// `R 57\n`, without allocating.
fn format_line(number: i32, line: &mut [u8; 16]) -> usize {
    let mut digits = [0; 10];
    let mut rest = number.unsigned_abs();
    let mut count = 0;
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        count += 1;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line[..2].copy_from_slice(b"R ");
    for (to, digit) in line[2..].iter_mut().zip(digits[..count].iter().rev()) {
        *to = *digit;
    }
    line[2 + count] = b'\n';
    count + 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_written_without_allocating() {
        for (number, text) in [(0, "R 0\n"), (57, "R 57\n"), (i32::MAX, "R 2147483647\n")] {
            let mut line = [0; 16];
            let length = format_line(number, &mut line);
            assert_eq!(&line[..length], text.as_bytes());
        }
    }

    #[test]
    fn a_missing_protection_is_said() {
        let sandbox = |landlock, seccomp| Sandbox { landlock, seccomp, limits: true }.to_string();
        assert_eq!(sandbox(Some(7), true), "Landlock ABI 7, seccomp, rlimits");
        assert_eq!(sandbox(None, true), "seccomp, rlimits; no Landlock on this kernel");
        assert_eq!(sandbox(Some(3), false), "Landlock ABI 3, rlimits; no seccomp on this kernel");
        let confines = |landlock, seccomp| Sandbox { landlock, seccomp, limits: true }.confines();
        assert!(confines(Some(7), true) && confines(None, true) && confines(Some(3), false) && !confines(None, false));
    }
}
