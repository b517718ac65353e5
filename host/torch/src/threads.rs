//! One set of threads: kernels run on those of OpenMP, which libtorch runs on too.
//!
//! After a parallel region OpenMP's threads spin for a while, waiting for the next. A second pool on the same cores would
//! work against them. The library is looked up at run time, since which OpenMP it is is libtorch's choice; both GNU's and
//! LLVM's have this entry. Where there is none, kernels keep their own pool.

use std::{
    any::Any,
    ffi::{c_uint, c_void},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Mutex,
};

use unswag_kernels::{Exec, Team};

type Region = extern "C" fn(*mut c_void);
type Parallel = unsafe extern "C" fn(Region, *mut c_void, c_uint, c_uint);

struct OpenMp {
    parallel: Parallel,
}

struct Work<'a> {
    task: &'a (dyn Fn() + Sync),
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Team for OpenMp {
    fn run(&self, threads: usize, task: &(dyn Fn() + Sync)) {
        let mut work = Work { task, panicked: Mutex::new(None) };
        let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
        // SAFETY: the region's end is a barrier, so `work` outlives every use of it; `region` takes what it is given here.
        unsafe { (self.parallel)(region, (&raw mut work).cast(), threads, 0) };
        if let Some(panic) = work.panicked.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            resume_unwind(panic);
        }
    }
}

/// What each thread runs. A panic must not cross OpenMP's frames: it goes on in the caller.
extern "C" fn region(work: *mut c_void) {
    // SAFETY: `run` passes a live `Work`, which is shared by reference only until the region ends.
    let work = unsafe { &*work.cast::<Work<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work.task)) {
        let mut first = work.panicked.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        first.get_or_insert(panic);
    }
}

/// Puts the process's kernels on libtorch's threads, once.
pub(crate) fn share() {
    static SHARED: std::sync::Once = std::sync::Once::new();
    SHARED.call_once(|| {
        // SAFETY: looks a name up among the libraries that are loaded; nothing is opened or run.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
        if !found.is_null() {
            // SAFETY: this is the entry's type in every OpenMP library that has it: fn, data, threads (0: default), flags.
            let parallel = unsafe { std::mem::transmute::<*mut c_void, Parallel>(found) };
            unswag_kernels::use_team(Box::leak(Box::new(OpenMp { parallel })));
        }
    });
}

/// Threads that libtorch and the kernels run on.
pub fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// The best instruction set on as many threads as libtorch uses.
pub(crate) fn exec() -> Exec {
    Exec::new(threads())
}
