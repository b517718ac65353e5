//! A test plugin, for the tests of everything that meets plugins: together its protocols make every kind of edit, and one
//! of them misbehaves in every way that a plugin written with the SDK can.
//!
//! * `composite`: attention blocks replaced by composites of host primitives, with factorised weights.
//! * `transform`: weights made by the plugin's own code.
//! * `hostile`: what the host must refuse, or survive.

mod composite;
mod hostile;
mod transform;

pub use hostile::{BAD_PATCHES, PANICS};

unswag_sdk::export_plugin!(hostile::Hostile, composite::Composite, transform::Transform);
