//! Keeps panics inside the plugin. A panic that reaches the boundary would end the host's process.
//!
//! The message and its place become the call's error, and nothing is printed. This must never be skipped: every function
//! that the host can call goes through it, the destructors included.
//!
//! What it cannot contain: `panic = "abort"` (the manifest says which, and the host refuses such a build), a panic while
//! another unwinds, a stack overflow, `process::exit`.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    mem,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use unswag_abi::{
    abi_stable::std_types::{RErr, ROk, RString},
    frame::Ret,
};

use crate::error::Error;

thread_local! {
    /// How many guards this thread is inside of.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// What the last panic under a guard said, left by the hook for the guard that catches it.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `body`; a panic in it becomes an error that says where.
pub fn contain<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    install_hook();
    DEPTH.set(DEPTH.get() + 1);
    // The plugin's state after a panic is the plugin's business: the host reports the error and drops the protocol.
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    outcome.unwrap_or_else(|payload| {
        let said = CAUGHT.take().unwrap_or_else(|| text_of(&*payload).to_owned());
        discard(payload);
        Err(Error::new(said))
    })
}

/// [`contain`], with the outcome in the boundary's own type. `place` is put in front of an error.
pub(crate) fn guard<T>(place: impl Fn() -> String, body: impl FnOnce() -> Result<T, Error>) -> Ret<T> {
    match contain(body) {
        Ok(value) => ROk(value),
        Err(error) => RErr(RString::from(error.at(place()).into_message())),
    }
}

/// A panic's payload may itself panic when it is dropped; then it is leaked, and so is what that threw.
fn discard(payload: Box<dyn Any + Send>) {
    DEPTH.set(DEPTH.get() + 1);
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        mem::forget(second);
    }
    DEPTH.set(DEPTH.get() - 1);
    CAUGHT.take();
}

/// Only the hook learns where a panic happened. Outside a guard the previous hook works as before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
                return previous(info);
            }
            let place =
                info.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
            let said = format!("the plugin panicked{place}: {}", text_of(info.payload()));
            // A panic inside this hook would abort; both accesses can only fail, not panic.
            let _ = CAUGHT.try_with(|caught| caught.try_borrow_mut().map(|mut caught| *caught = Some(said)));
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a payload that is not text)")
}

/// A plugin's object whose destructor is kept from panicking into the host.
pub(crate) struct Contained<T: ?Sized>(Option<Box<T>>);

impl<T: ?Sized> Contained<T> {
    pub fn new(object: Box<T>) -> Self {
        Self(Some(object))
    }

    pub fn get(&self) -> &T {
        self.0.as_deref().expect("taken by drop only")
    }
}

impl<T: ?Sized> Drop for Contained<T> {
    fn drop(&mut self) {
        let object = self.0.take();
        // Nobody is left to tell: the call that would carry the error is the destructor itself.
        let _ = contain(|| {
            drop(object);
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("from a destructor");
        }
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let line = line!() + 1;
        let error = contain::<()>(|| panic!("no {}", "rank")).unwrap_err();
        assert_eq!(error.message(), format!("the plugin panicked at {}:{line}: no rank", file!()));
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_contained() {
        let error = contain::<()>(|| panic::panic_any(PanicsWhenDropped)).unwrap_err();
        assert!(error.message().ends_with("(a payload that is not text)"), "{error}");
        assert_eq!(contain(|| Ok(7)).unwrap(), 7, "the guard still works afterwards");
    }

    #[test]
    fn a_destructor_that_panics_is_contained() {
        drop(Contained::new(Box::new(PanicsWhenDropped)));
    }

    #[test]
    fn guards_nest() {
        let outer = contain(|| {
            assert!(contain::<()>(|| panic!("inner")).is_err());
            Ok("outer")
        });
        assert_eq!(outer.unwrap(), "outer");
    }
}
