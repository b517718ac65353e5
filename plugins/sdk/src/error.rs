//! The error that a plugin returns: a sentence for the user, since that is what crosses the boundary.

use std::fmt;

/// What went wrong, in a sentence that says what, where, what was expected, what was found, and what to do next.
///
/// Any `std::error::Error` turns into it with `?`; its chain of causes is kept, joined by `: `. It does not implement
/// `std::error::Error` itself (that is what makes the blanket conversion possible).
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
}

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    /// The same error with the place it happened at in front: `"layer 3"` makes `layer 3: …`.
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self { message: format!("{place}: {}", self.message) }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn into_message(self) -> String {
        self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// As `Display`: this is what `unwrap` in a test prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many error types already print their source; saying it twice helps nobody.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { message }
    }
}

/// Makes an [`Error`] as `format!` makes a string.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::Error::new(::std::format!($($arg)*)) };
}

/// Returns an [`Error`] made as `format!` makes a string.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return ::std::result::Result::Err($crate::error!($($arg)*)) };
}
