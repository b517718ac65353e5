//! What unswag's programs share: the arguments of every command, recipes, how things look on a terminal, and how a command ends.
//!
//! `unswag` must start where libtorch is not installed, so what needs libtorch is in a program of its own. Both parse the same
//! arguments, which are defined here once: help, completions and refusals are the same wherever libtorch is.
//! Nothing here may do a command's work.

pub mod args;
pub mod data;
pub mod recipe;
pub mod term;

use std::error::Error;

use args::Output;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Ok,
    /// It compared or checked, and something differs.
    Differs,
    /// The check could not finish (a crash or a timeout).
    Unfinished,
    /// Interrupted; training that had started has saved a checkpoint.
    Stopped,
    /// It failed in another process, which said why.
    Failed,
}

/// A failure that is printed as JSON with the command's own fields, so that what could not be measured is there and `null`.
#[derive(Debug)]
pub struct Failed {
    pub page: serde_json::Map<String, serde_json::Value>,
    pub source: Box<dyn Error>,
}

impl Failed {
    /// With these fields, all of them `null`.
    pub fn without(fields: &[&str], source: impl Into<Box<dyn Error>>) -> Self {
        let page = fields.iter().map(|field| ((*field).to_owned(), serde_json::Value::Null)).collect();
        Failed { page, source: source.into() }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}

/// The exit status of a command; what failed is printed with all its causes.
pub fn exit(output: &Output, result: Result<Done, Box<dyn Error>>) -> u8 {
    match result {
        Ok(Done::Ok) => 0,
        Ok(Done::Differs) => 1,
        Ok(Done::Unfinished) => 2,
        Ok(Done::Stopped) => 130,
        Ok(Done::Failed) => 2,
        Err(error) => {
            if output.json {
                let mut page = error.downcast_ref::<Failed>().map(|failed| failed.page.clone()).unwrap_or_default();
                page.insert("error".to_owned(), chain(error.as_ref()).into());
                let _ = term::print(&format!("{}\n", serde_json::Value::Object(page)));
            }
            term::error(&chain(error.as_ref()));
            2
        }
    }
}

/// Sets up colours and the Ctrl-C handler. Call first.
pub fn begin(output: &Output) {
    term::init(output);
    if let Err(error) = term::catch_interrupts() {
        term::note(output, &format!("cannot catch Ctrl-C ({error}); it will end the program at once"));
    }
}

/// An error with all its causes; one that repeats what stands before it is left out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
