//! Normalisation over rows: [`rms_norm`] and [`layer_norm`], forward and backward.
//!
//! A row is what is normalised: `hidden` elements, lying together. Queries and keys that are normalised head by head are
//! `tokens * heads` rows of `head_dim`. [`mod@reference`] is the specification; the vector bodies give its bits.
//!
//! The weight's gradient is a function of its own, because a frozen weight needs none. It is summed over rows in an order that
//! the number of threads does not change, into an f32 accumulator of the caller.

mod columns;
pub(crate) mod dispatch;
pub mod layer_norm;
pub mod reference;
pub mod rms_norm;

pub(crate) use dispatch::Kernels;
