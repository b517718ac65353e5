//! Jinja as chat templates need it: what Jinja2 3.1 does in the sandbox of transformers.
//!
//! A template comes with a downloaded model, and is rendered within this process. So that it can neither crash it nor take
//! its time or memory, everything is bounded before it is done: the source in bytes and nesting ([`MAX_SOURCE_BYTES`],
//! [`ast::MAX_NESTING`]), values in depth ([`value::MAX_DEPTH`]), a rendering in steps, bytes and calls
//! ([`budget::Limits`]). The bounds are counted and not measured: a template ends the same on every machine. What is beyond
//! them is an error with the template's line.
//!
//! What a template prints becomes tokens, so that a result is Python's or an error, never another text. Rejected, where
//! Python has a result:
//!
//! * integers of more than 128 bits, complex numbers, surrogates, `\N{...}`;
//! * text of what has an address or no order in Python: functions, methods, generators, namespaces, loops;
//! * `{% block %}`, `{% extends %}`, `{% include %}`, `{% import %}`, `{% autoescape %}`, several values in one index;
//! * the filters `pprint`, `random`, `striptags`, `urlize` and `wordwrap`; `lipsum`; slices of `range`; `==` of `items()`;
//! * `encode`, `translate`, `maketrans`, `fromkeys`, methods of numbers, `casefold` beyond Latin letters, title case of a
//!   capital sigma, `isnumeric` of letters without case, and what `safe` or `escape` marked, but for printing and `+`.
//!
//! Filters such as `map` are evaluated at once, not when their items are read: an error in an item that Python would not
//! have come to is an error here.

mod arguments;
mod ast;
mod budget;
mod calls;
mod eval;
mod filters;
mod filters_text;
mod format;
mod iterate;
mod lexer;
mod lookup;
mod methods;
mod object;
mod ops;
mod parser;
mod print;
mod questions;
#[cfg(test)]
mod tests;
mod unicode;
mod value;

pub(crate) use budget::{Error, Limits};
pub(crate) use eval::GENERATED;
pub(crate) use value::Value;

/// Longest template that is read; those in use have up to 30,000 bytes.
pub(crate) const MAX_SOURCE_BYTES: usize = 1 << 20;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template(parser::Parsed);

impl Template {
    /// Parses a template. Needs the stack of [`with_stack`].
    ///
    /// # Errors
    /// It is unsound, too long, or nested too deeply.
    pub fn parse(source: &str) -> Result<Self, Error> {
        if source.len() > MAX_SOURCE_BYTES {
            let bytes = source.len();
            return Err(Error::new(format!("a template of {bytes} bytes; at most {MAX_SOURCE_BYTES} are read")));
        }
        parser::parse(source).map(Template)
    }

    /// The text of the template under these variables, of which the last one of a name counts. `now` is the date that it
    /// may ask for. Needs the stack of [`with_stack`].
    ///
    /// # Errors
    /// The template fails, or takes more than `limits`.
    pub fn render(
        &self,
        variables: &[(&str, Value)],
        now: jiff::civil::DateTime,
        limits: Limits,
    ) -> Result<String, Error> {
        eval::render(&self.0, variables, now, limits)
    }
}

/// Runs something on a thread whose stack holds the deepest nesting that is let through.
///
/// # Errors
/// The thread cannot be started; a panic, which is a fault of this crate, as an error.
pub(crate) fn with_stack<T: Send>(act: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(eval::STACK_BYTES).spawn_scoped(scope, act);
        let thread = thread.map_err(|error| Error::new(format!("no thread for the template: {error}")))?;
        thread.join().map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Error::new(format!("the template engine failed, which is a fault of it: {text}"))
        })
    })
}
