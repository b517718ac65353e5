//! What no guard of the SDK can contain: every way to end the program.

unsafe extern "C" {
    fn _exit(status: i32) -> !;
    fn quick_exit(status: i32) -> !;
    fn atexit(function: extern "C" fn()) -> i32;
}

extern "C" fn exit_well() {
    // SAFETY: ends the process, which is what was asked for.
    unsafe { _exit(0) }
}

/// What the option `mischief` is by default. A test that cannot give options, since the conformance suite chooses them, puts another
/// text into a copy of the library.
#[used]
static DEFAULT: [u8; 48] = *b"unswag-mischief=                                ";

pub(super) fn default() -> String {
    // Read as the library has it, not as the compiler knows it.
    // SAFETY: an initialised static.
    let text = unsafe { std::ptr::read_volatile(&raw const DEFAULT) };
    let text = String::from_utf8_lossy(&text);
    text.split_once('=').map_or("", |(_, value)| value).trim().to_owned()
}

/// Ends the program as `how` says, `atexit` when it ends by itself; another word does nothing here.
pub(super) fn end(how: &str) {
    match how {
        "exit" => std::process::exit(0),
        "exit1" => std::process::exit(1),
        // SAFETY: all of them end the process, which is what was asked for.
        "_exit" => unsafe { _exit(0) },
        // SAFETY: as above.
        "quick_exit" => unsafe { quick_exit(0) },
        // SAFETY: the function stays for as long as the library, which is never closed.
        "atexit" => unsafe {
            atexit(exit_well);
        },
        "abort" => std::process::abort(),
        // SAFETY: as above.
        "segv" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        _ => {}
    }
}

/// What a forward writes where it should write `y`; `last` says whether it is the last element.
pub(super) fn wrong(how: &str, y: f64, last: bool) -> f64 {
    match how {
        "scaled" => 1.01 * y,
        "nan" if last => f64::NAN,
        "zero" => 0.0,
        "negative_zero_of_small" if y.abs() < 1e-3 => 0.0,
        _ => y,
    }
}
