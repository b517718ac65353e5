//! End-to-end tests: the built program as a user runs it, and the repository's own rules.

mod layering;
mod peers;
mod shared;
mod tree;
