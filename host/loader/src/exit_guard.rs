//! A plugin's code must not end this program in a way that looks like success.
//!
//! A loaded library may call `exit(0)` at any moment: the caller would see status 0, and no result. From the first library that
//! opens in this process until [`end_of_program`], an exit with status 0 or 1 (both are results of this program) becomes status 2 with a
//! sentence on standard error. A program asks for this with [`guard_exit`]; other users of this crate end as they like. Caught are `exit`, by a handler that runs with it, `quick_exit`, and `_exit` and `_Exit` where the library
//! calls the C library's, since this program's own definition stands before it. Not caught are the system call `exit_group` without
//! the C library, and `execve`, which puts another program in the place of this one: then the status is the plugin's or that program's, and
//! only the missing result shows it.
//!
//! A crash needs no guard: a signal is no success. Nor does a child process of this program ([`crate::trial()`]), whose end is reported by its
//! messages.

use std::{
    ffi::{c_int, c_void},
    io::Write as _,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

static IS_WANTED: AtomicBool = AtomicBool::new(false);
static IS_ARMED: AtomicBool = AtomicBool::new(false);

/// The status of this program for what could not be done.
const FAILED: c_int = 2;

unsafe extern "C" {
    // glibc's: as `atexit`, with the status.
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
    fn at_quick_exit(function: extern "C" fn()) -> c_int;
}

/// Asks for the guard: once a library is open, the program must not end with status 0 or 1 before [`end_of_program`].
pub fn guard_exit() {
    IS_WANTED.store(true, Ordering::SeqCst);
}

/// From here on an end of the program is the plugin's doing. Called before a library opens.
pub(crate) fn arm() {
    if !IS_WANTED.load(Ordering::SeqCst) {
        return;
    }
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // SAFETY: both functions stay for as long as the process lives. Without memory for the handler there is no guard.
        unsafe {
            on_exit(on_exit_called, std::ptr::null_mut());
            at_quick_exit(on_quick_exit_called);
        }
        // The linker must not leave them out: nothing but libraries calls them.
        std::hint::black_box([_exit as extern "C" fn(c_int) -> !, _Exit]);
    });
    IS_ARMED.store(true, Ordering::SeqCst);
}

/// Ends the program with its result, where `main` is done. No handler and no destructor of a library runs: one that ends the program
/// would put another status in the place of this one.
pub fn end_of_program(status: u8) -> ! {
    // Nothing can be done about what cannot be written; what had to arrive was flushed where it was printed.
    let _ = std::io::stdout().flush();
    end(status.into())
}

/// Whether a status says that there is a result.
fn is_answer(status: c_int) -> bool {
    matches!(status & 0xff, 0 | 1)
}

extern "C" fn on_exit_called(status: c_int, _: *mut c_void) {
    if IS_ARMED.load(Ordering::SeqCst) && is_answer(status) {
        refuse(status);
    }
}

extern "C" fn on_quick_exit_called() {
    // It is not given the status.
    if IS_ARMED.load(Ordering::SeqCst) {
        refuse(0);
    }
}

/// Says what happened and ends the program as failed.
fn refuse(status: c_int) -> ! {
    let text = if status == 0 {
        "error: a plugin ended the program (exit(0)) before its work was done; what was asked for was not completed\n"
    } else {
        "error: a plugin ended the program (exit(1)) before its work was done; what was asked for was not completed\n"
    };
    // SAFETY: write(2) on a text of this length. No lock of the standard library is taken: another thread may hold it.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    end(FAILED)
}

fn end(status: c_int) -> ! {
    loop {
        // SAFETY: ends the process; it has no preconditions.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}

/// The C library's `_exit`, as every library in this process finds it: the program's own symbols come first.
///
/// It must stay free of everything that needs a working process.
#[unsafe(no_mangle)]
pub extern "C" fn _exit(status: c_int) -> ! {
    if IS_ARMED.load(Ordering::SeqCst) && is_answer(status) {
        refuse(status);
    }
    end(status)
}

/// ISO C's name for `_exit`.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C library's name")]
pub extern "C" fn _Exit(status: c_int) -> ! {
    _exit(status)
}
