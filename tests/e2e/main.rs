//! End-to-end tests: the built program as a user runs it, and the repository's own rules.

mod adapters;
mod dated;
mod documents;
mod formats;
mod hostile_files;
mod house;
mod kills;
mod layering;
mod limits;
mod main_job;
mod optimizers;
mod patched;
mod peers;
mod plan;
mod plugins;
mod promises;
mod quantized;
mod recipes;
mod results;
mod resume;
mod shared;
mod tensorboard;
mod terminal;
mod train;
mod tree;
mod trust;
