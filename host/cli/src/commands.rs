//! One file per command: call the crates below, print what came back.

pub mod diff;
pub mod doctor;
pub mod help;
pub mod import;
pub mod inspect;
pub mod merge;
pub mod plan;
pub mod plugin;
pub mod preprocess;
pub mod run;
pub mod surgery;
pub mod torch;
pub mod trial;
pub mod undo;
pub mod verify;

/// `a` in singular, `b` in plural.
fn plural<'a>(count: usize, a: &'a str, b: &'a str) -> &'a str {
    if count == 1 { a } else { b }
}
