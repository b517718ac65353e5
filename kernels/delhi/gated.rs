//! `delhi.swiglu` and `delhi.geglu`: h = act(g) u; the backward from g and u, or from both in groups of few bits.
//!
//! Math: dg = (dh u) act'(g), du = dh act(g). In mode `exact` at the saved inputs themselves. In `8bit`, `4bit`, `2bit` at what
//! their codes stand for: value and derivative come from the same code, and [`rematerialize`] makes h from it too.
//! Layout: g, u, h, dh, dg, du contiguous \[rows, cols\]; codes \[rows, words_per_row\] u32; params \[rows, groups, 2\] bf16.
//! Bytes per element, e bytes wide, b bits, group 64: forward reads 2e, writes e + (b + 1/2)/4; backward reads
//! e + (b + 1/2)/4, writes 2e; rematerialise reads (b + 1/2)/4, writes e. Mode exact: forward 3e, backward 5e.
//! Precision: f32 inside, rounded once; every instruction set gives the reference's bits, stochastic rounding included.
//! NaN: a NaN, an infinity or a magnitude of 2^126 in a group makes that group's g (or u) decode as NaN, and no other's.
//!
//! The ladder (measured figures in `kernels/README.md`):
//! 1. reference: a row at a time, bit by bit.
//! 2. sixteen lanes, two passes over each group: extent, then codes and h together, the second pass reading from L1.
//! 3. streamed stores for large calls, as in `code.rs`.
//!
//! This file must not allocate, and checks every length before the first store.

mod bodies;

use std::marker::PhantomData;

use half::bf16;
use serde::{Deserialize, Serialize};

use bodies::{Backward, ExactBackward, Forward, Plain, Rematerialize};

use super::{
    Activation,
    code::{should_stream, with_activation},
    group::{SavedSizes, saved_sizes},
};
use crate::{Element, Exec, KernelError, element::How, error::length};

/// Elements that a task takes at a time, about.
const CHUNK: usize = 1 << 15;

/// How g and u are kept for the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// As they are: the backward is exact, and h is recomputed from them.
    #[serde(rename = "exact")]
    Exact,
    #[serde(rename = "8bit")]
    Bits8,
    #[serde(rename = "4bit")]
    Bits4,
    #[serde(rename = "2bit")]
    Bits2,
}

impl Mode {
    pub const ALL: [Mode; 4] = [Mode::Exact, Mode::Bits8, Mode::Bits4, Mode::Bits2];

    /// `exact`, `8bit`, `4bit`, `2bit`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exact => "exact",
            Mode::Bits8 => "8bit",
            Mode::Bits4 => "4bit",
            Mode::Bits2 => "2bit",
        }
    }

    /// Bits per code; `None` for `exact`, which has no codes.
    pub fn bits(self) -> Option<u32> {
        match self {
            Mode::Exact => None,
            Mode::Bits8 => Some(8),
            Mode::Bits4 => Some(4),
            Mode::Bits2 => Some(2),
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| KernelError::Name {
            what: "mode",
            expected: "exact, 8bit, 4bit, 2bit",
            got: name.into(),
        })
    }
}

/// How a value between two codes is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearer code.
    Nearest,
    /// Up with the probability of its distance, so that the mean over seeds is the value itself. The same (seed, offset)
    /// give the same bits, on any number of threads.
    Stochastic { seed: u64, offset: u64 },
}

/// How a gated op saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub mode: Mode,
    /// Columns per group: a multiple of 32 up to 1024.
    pub group: usize,
    pub rounding: Rounding,
}

/// Rows and columns of g, u and h: leading dimensions flattened, and the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
}

/// What a forward saved, with the sizes of [`saved_sizes`]. In mode `exact` all four are empty.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    pub g_codes: &'a [u32],
    pub g_params: &'a [bf16],
    pub u_codes: &'a [u32],
    pub u_params: &'a [bf16],
}

/// Where a forward saves.
#[derive(Debug)]
pub struct SavedMut<'a> {
    pub g_codes: &'a mut [u32],
    pub g_params: &'a mut [bf16],
    pub u_codes: &'a mut [u32],
    pub u_params: &'a mut [bf16],
}

impl SavedMut<'_> {
    /// The same tensors, to read.
    pub fn as_ref(&self) -> Saved<'_> {
        Saved { g_codes: self.g_codes, g_params: self.g_params, u_codes: self.u_codes, u_params: self.u_params }
    }
}

/// How rows are dealt out: `rows` of them and all their columns, or columns of a single row.
struct Deal {
    /// Elements, words and parameters of one deal.
    elements: usize,
    words: usize,
    params: usize,
    /// Columns of a row as a deal sees it.
    cols: usize,
    chunks: usize,
    single_row: bool,
}

impl Deal {
    fn new(shape: Shape, group: usize, sizes: SavedSizes, bits: usize) -> Deal {
        let Shape { rows, cols } = shape;
        if rows == 1 && cols > CHUNK {
            // One long row is cut between groups, where words end too.
            let cut = CHUNK.next_multiple_of(group);
            return Deal {
                elements: cut,
                words: cut * bits / 32,
                params: 2 * cut / group,
                cols: cut,
                chunks: cols.div_ceil(cut),
                single_row: true,
            };
        }
        let take = (CHUNK / cols.max(1)).clamp(1, rows.max(1));
        Deal {
            elements: (take * cols).max(1),
            words: (take * sizes.words_per_row).max(1),
            params: (take * sizes.params_per_row).max(1),
            cols,
            chunks: rows.div_ceil(take),
            single_row: false,
        }
    }

    /// First row and column of the `at`-th deal.
    fn start(&self, at: usize) -> (usize, usize) {
        if self.single_row { (0, at * self.cols) } else { (at * (self.elements / self.cols.max(1)), 0) }
    }
}

fn check_saved(op: &'static str, shape: Shape, sizes: SavedSizes, saved: Saved<'_>) -> Result<(), KernelError> {
    length(op, "g_codes", shape.rows * sizes.words_per_row, saved.g_codes.len())?;
    length(op, "u_codes", shape.rows * sizes.words_per_row, saved.u_codes.len())?;
    length(op, "g_params", shape.rows * sizes.params_per_row, saved.g_params.len())?;
    length(op, "u_params", shape.rows * sizes.params_per_row, saved.u_params.len())
}

/// h = act(g) u, nothing saved.
pub(crate) fn plain<T: Element>(
    op: &'static str,
    exec: Exec,
    activation: Activation,
    g: &[T],
    u: &[T],
    h: &mut [T],
) -> Result<(), KernelError> {
    length(op, "u", g.len(), u.len())?;
    length(op, "h", g.len(), h.len())?;
    let stream = should_stream(&[h]);
    let work = g.chunks(CHUNK).zip(u.chunks(CHUNK)).zip(h.chunks_mut(CHUNK));
    with_activation!(activation, A => exec.for_each(g.len().div_ceil(CHUNK), work, |((g, u), h)| {
        T::launch(exec.isa, Plain::<T, A> { g, u, h, stream, activation: PhantomData });
    }))
}

/// dg and du from g and u.
pub(crate) fn exact_backward<T: Element>(
    op: &'static str,
    exec: Exec,
    activation: Activation,
    [dh, g, u]: [&[T]; 3],
    [dg, du]: [&mut [T]; 2],
) -> Result<(), KernelError> {
    length(op, "g", dh.len(), g.len())?;
    length(op, "u", dh.len(), u.len())?;
    length(op, "dg", dh.len(), dg.len())?;
    length(op, "du", dh.len(), du.len())?;
    let stream = should_stream(&[dg, du]);
    let work =
        dh.chunks(CHUNK).zip(g.chunks(CHUNK)).zip(u.chunks(CHUNK)).zip(dg.chunks_mut(CHUNK).zip(du.chunks_mut(CHUNK)));
    with_activation!(activation, A => exec.for_each(dh.len().div_ceil(CHUNK), work, |(((dh, g), u), (dg, du))| {
        T::launch(exec.isa, ExactBackward::<T, A> { dh, g, u, dg, du, stream, activation: PhantomData });
    }))
}

/// h = act(g) u; g and u saved as `config` says.
pub(crate) fn forward<T: Element>(
    op: &'static str,
    exec: Exec,
    how: How<'_>,
    g: &[T],
    u: &[T],
    h: &mut [T],
    saved: SavedMut<'_>,
) -> Result<(), KernelError> {
    let How { shape, config, .. } = how;
    length(op, "g", shape.elements(op)?, g.len())?;
    length(op, "u", g.len(), u.len())?;
    length(op, "h", g.len(), h.len())?;
    let sizes = saved_sizes(shape.rows, shape.cols, config.mode, config.group)?;
    check_saved(op, shape, sizes, saved.as_ref())?;
    match config.mode {
        Mode::Exact => plain(op, exec, how.activation, g, u, h),
        Mode::Bits8 => forward_bits::<T, 8>(exec, how, sizes, g, u, h, saved),
        Mode::Bits4 => forward_bits::<T, 4>(exec, how, sizes, g, u, h, saved),
        Mode::Bits2 => forward_bits::<T, 2>(exec, how, sizes, g, u, h, saved),
    }
}

fn forward_bits<T: Element, const B: usize>(
    exec: Exec,
    how: How<'_>,
    sizes: SavedSizes,
    g: &[T],
    u: &[T],
    h: &mut [T],
    saved: SavedMut<'_>,
) -> Result<(), KernelError> {
    let deal = Deal::new(how.shape, how.config.group, sizes, B);
    let stream = should_stream(&[h]);
    let g_saved = saved.g_codes.chunks_mut(deal.words).zip(saved.g_params.chunks_mut(deal.params));
    let u_saved = saved.u_codes.chunks_mut(deal.words).zip(saved.u_params.chunks_mut(deal.params));
    let work = g
        .chunks(deal.elements)
        .zip(u.chunks(deal.elements))
        .zip(h.chunks_mut(deal.elements))
        .zip(g_saved.zip(u_saved))
        .enumerate();
    with_activation!(how.activation, A => exec.for_each(deal.chunks, work, |(at, (((g, u), h), (g_saved, u_saved)))| {
        let body = Forward::<T, A, B> {
            cols: deal.cols,
            start: deal.start(at),
            config: *how.config,
            g, u, h,
            g_codes: g_saved.0, g_params: g_saved.1, u_codes: u_saved.0, u_params: u_saved.1,
            stream,
            activation: PhantomData,
        };
        T::launch(exec.isa, body);
    }))
}

/// dg and du from what was saved.
pub(crate) fn backward<T: Element>(
    op: &'static str,
    exec: Exec,
    how: How<'_>,
    dh: &[T],
    saved: Saved<'_>,
    dg: &mut [T],
    du: &mut [T],
) -> Result<(), KernelError> {
    let How { shape, config, .. } = how;
    length(op, "dh", shape.elements(op)?, dh.len())?;
    length(op, "dg", dh.len(), dg.len())?;
    length(op, "du", dh.len(), du.len())?;
    let sizes = saved_sizes(shape.rows, shape.cols, config.mode, config.group)?;
    check_saved(op, shape, sizes, saved)?;
    match config.mode {
        Mode::Exact => Err(not_exact(op)),
        Mode::Bits8 => backward_bits::<T, 8>(exec, how, sizes, dh, saved, dg, du),
        Mode::Bits4 => backward_bits::<T, 4>(exec, how, sizes, dh, saved, dg, du),
        Mode::Bits2 => backward_bits::<T, 2>(exec, how, sizes, dh, saved, dg, du),
    }
}

fn not_exact(op: &'static str) -> KernelError {
    KernelError::Name {
        what: "packed mode",
        expected: "8bit, 4bit, 2bit; mode exact has its own functions, which take g and u",
        got: format!("exact ({op})"),
    }
}

fn backward_bits<T: Element, const B: usize>(
    exec: Exec,
    how: How<'_>,
    sizes: SavedSizes,
    dh: &[T],
    saved: Saved<'_>,
    dg: &mut [T],
    du: &mut [T],
) -> Result<(), KernelError> {
    let deal = Deal::new(how.shape, how.config.group, sizes, B);
    let stream = should_stream(&[dg, du]);
    let work = dh
        .chunks(deal.elements)
        .zip(dg.chunks_mut(deal.elements).zip(du.chunks_mut(deal.elements)))
        .zip(saved_chunks(saved, &deal));
    with_activation!(how.activation, A => exec.for_each(deal.chunks, work, |((dh, (dg, du)), saved)| {
        let cols = deal.cols;
        let body = Backward::<T, A, B> { cols, group: how.config.group, dh, saved, dg, du, stream, activation: PhantomData };
        T::launch(exec.isa, body);
    }))
}

/// h = act(g) u at the g and u that were saved.
pub(crate) fn rematerialize<T: Element>(
    op: &'static str,
    exec: Exec,
    how: How<'_>,
    saved: Saved<'_>,
    h: &mut [T],
) -> Result<(), KernelError> {
    let How { shape, config, .. } = how;
    length(op, "h", shape.elements(op)?, h.len())?;
    let sizes = saved_sizes(shape.rows, shape.cols, config.mode, config.group)?;
    check_saved(op, shape, sizes, saved)?;
    match config.mode {
        Mode::Exact => Err(not_exact(op)),
        Mode::Bits8 => rematerialize_bits::<T, 8>(exec, how, sizes, saved, h),
        Mode::Bits4 => rematerialize_bits::<T, 4>(exec, how, sizes, saved, h),
        Mode::Bits2 => rematerialize_bits::<T, 2>(exec, how, sizes, saved, h),
    }
}

fn rematerialize_bits<T: Element, const B: usize>(
    exec: Exec,
    how: How<'_>,
    sizes: SavedSizes,
    saved: Saved<'_>,
    h: &mut [T],
) -> Result<(), KernelError> {
    let deal = Deal::new(how.shape, how.config.group, sizes, B);
    let stream = should_stream(&[h]);
    let work = h.chunks_mut(deal.elements).zip(saved_chunks(saved, &deal));
    with_activation!(how.activation, A => exec.for_each(deal.chunks, work, |(h, saved)| {
        let cols = deal.cols;
        T::launch(exec.isa, Rematerialize::<T, A, B> { cols, group: how.config.group, saved, h, stream, activation: PhantomData });
    }))
}

fn saved_chunks<'a>(saved: Saved<'a>, deal: &Deal) -> impl Iterator<Item = Saved<'a>> + Send {
    let g = saved.g_codes.chunks(deal.words).zip(saved.g_params.chunks(deal.params));
    let u = saved.u_codes.chunks(deal.words).zip(saved.u_params.chunks(deal.params));
    g.zip(u).map(|((g_codes, g_params), (u_codes, u_params))| Saved { g_codes, g_params, u_codes, u_params })
}
