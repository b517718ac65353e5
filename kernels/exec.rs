//! How a call runs: on which instruction set and on how many threads. Neither changes a bit of the result.
//!
//! Threads are tasks on the current rayon pool (the global one, or the caller's if it calls inside `pool.install`), or on the
//! [`Team`] that the process has given: two pools on the same cores wait for each other. Work is cut into chunks that the
//! tasks take one by one, so that a core that is busy elsewhere does not hold up the others.

use std::sync::{Mutex, OnceLock};

use crate::KernelError;

/// Threads that another library of the process has already.
pub trait Team: Sync {
    /// Calls `task` from up to `threads` threads at once, the caller's among them, and returns when all calls have.
    fn run(&self, threads: usize, task: &(dyn Fn() + Sync));
}

static TEAM: OnceLock<&'static dyn Team> = OnceLock::new();

/// From now on every kernel of the process runs on this team. The first one given stays; whether it is this call's.
pub fn use_team(team: &'static dyn Team) -> bool {
    TEAM.set(team).is_ok()
}

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust, for any CPU. Fast only where a fused multiply-add is part of the base instruction set (AArch64).
    Portable,
    /// x86-64 with AVX2, FMA and F16C (2013 on).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and BMI2.
    Avx512,
    /// The same with AVX512_BF16, which rounds to bf16 in one instruction.
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set there is a kernel for, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = || {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("bmi2")
                    && Isa::Avx2.is_available()
            };
            match self {
                Isa::Portable => true,
                Isa::Avx2 => unswag_kernel_plan::has_vectors(),
                Isa::Avx512 => avx512(),
                Isa::Avx512Bf16 => avx512() && std::arch::is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Portable
        }
    }

    /// The fastest one this CPU has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Those this CPU has, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }
}

/// How a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The instruction set. A call fails with [`KernelError::IsaUnavailable`] where the CPU lacks it.
    pub isa: Isa,
    /// The most threads the call may use; 0 counts as 1.
    pub threads: usize,
}

impl Exec {
    /// The best instruction set on at most `threads` threads.
    pub fn new(threads: usize) -> Exec {
        Exec { isa: Isa::best(), threads }
    }

    /// Whether this CPU has the instruction set: for ops that write something before [`Exec::for_each`] asks.
    pub(crate) fn check(self) -> Result<(), KernelError> {
        if self.isa.is_available() { Ok(()) } else { Err(KernelError::IsaUnavailable { isa: self.isa }) }
    }

    /// Calls `run` on every item of `work`, from at most `self.threads` threads at once.
    pub(crate) fn for_each<W>(self, chunks: usize, work: W, run: impl Fn(W::Item) + Sync) -> Result<(), KernelError>
    where
        W: Iterator + Send,
    {
        self.check()?;
        let tasks = self.threads.min(chunks);
        if tasks <= 1 {
            work.for_each(run);
            return Ok(());
        }
        let work = Mutex::new(work);
        let take_all = || {
            loop {
                // A poisoned lock means that another task panicked, which the pool passes on to the caller: stop quietly.
                let Some(item) = work.lock().ok().and_then(|mut work| work.next()) else {
                    return;
                };
                run(item);
            }
        };
        on_threads(tasks, &take_all);
        Ok(())
    }
}

/// Calls `task` from up to `threads` threads at once. Not generic: the pool's own code was compiled 216 times, once for each kernel.
fn on_threads(threads: usize, task: &(dyn Fn() + Sync)) {
    match TEAM.get() {
        Some(team) => team.run(threads, task),
        None => rayon::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|_| task());
            }
            task();
        }),
    }
}
