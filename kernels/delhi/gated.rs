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

use std::marker::PhantomData;

use half::bf16;
use serde::{Deserialize, Serialize};

use super::{
    Activation,
    code::{padded, should_stream, with_activation},
    group::{Encoder, Extent, SavedSizes, saved_sizes},
};
use crate::{
    Element, Exec, KernelError,
    element::How,
    error::length,
    random::RowRandom,
    simd::{Body, Simd, math::Function},
};

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

struct Plain<'a, T, A> {
    g: &'a [T],
    u: &'a [T],
    h: &'a mut [T],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function> Body for Plain<'_, T, A> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (g_blocks, g_tail) = self.g.as_chunks::<32>();
        let (u_blocks, u_tail) = self.u.as_chunks::<32>();
        let (h_blocks, h_tail) = self.h.as_chunks_mut::<32>();
        for ((g, u), h) in g_blocks.iter().zip(u_blocks).zip(h_blocks) {
            product::<S, T, A>(s, load(s, g), load(s, u), h, self.stream);
        }
        if !g_tail.is_empty() {
            let mut h = [T::ZERO; 32];
            product::<S, T, A>(s, load(s, &padded(g_tail)), load(s, &padded(u_tail)), &mut h, false);
            h_tail.copy_from_slice(&h[..g_tail.len()]);
        }
        if self.stream {
            s.fence();
        }
    }
}

/// 32 lanes.
type Pair<S> = [<S as Simd>::F; 2];

#[inline(always)]
fn load<S: Simd, T: Element>(s: S, from: &[T; 32]) -> Pair<S> {
    let halves = from.as_chunks::<16>().0;
    [T::load(s, &halves[0]), T::load(s, &halves[1])]
}

#[inline(always)]
fn product<S: Simd, T: Element, A: Function>(s: S, g: Pair<S>, u: Pair<S>, h: &mut [T; 32], stream: bool) {
    let low = s.mul(s.value::<A>(g[0]), u[0]);
    let high = s.mul(s.value::<A>(g[1]), u[1]);
    T::store(s, h, low, high, stream);
}

#[inline(always)]
fn gradients<S: Simd, T: Element, A: Function>(
    s: S,
    dh: Pair<S>,
    g: Pair<S>,
    u: Pair<S>,
    (dg, du): (&mut [T; 32], &mut [T; 32]),
    stream: bool,
) {
    let (value_0, derivative_0) = s.with_derivative::<A>(g[0]);
    let (value_1, derivative_1) = s.with_derivative::<A>(g[1]);
    let dg_0 = s.mul(s.mul(dh[0], u[0]), derivative_0);
    let dg_1 = s.mul(s.mul(dh[1], u[1]), derivative_1);
    T::store(s, dg, dg_0, dg_1, stream);
    T::store(s, du, s.mul(dh[0], value_0), s.mul(dh[1], value_1), stream);
}

struct ExactBackward<'a, T, A> {
    dh: &'a [T],
    g: &'a [T],
    u: &'a [T],
    dg: &'a mut [T],
    du: &'a mut [T],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function> Body for ExactBackward<'_, T, A> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dh_blocks, dh_tail) = self.dh.as_chunks::<32>();
        let (g_blocks, g_tail) = self.g.as_chunks::<32>();
        let (u_blocks, u_tail) = self.u.as_chunks::<32>();
        let (dg_blocks, dg_tail) = self.dg.as_chunks_mut::<32>();
        let (du_blocks, du_tail) = self.du.as_chunks_mut::<32>();
        let inputs = dh_blocks.iter().zip(g_blocks).zip(u_blocks);
        for (((dh, g), u), out) in inputs.zip(dg_blocks.iter_mut().zip(du_blocks)) {
            gradients::<S, T, A>(s, load(s, dh), load(s, g), load(s, u), out, self.stream);
        }
        if !dh_tail.is_empty() {
            let (mut dg, mut du) = ([T::ZERO; 32], [T::ZERO; 32]);
            let (g, u) = (load(s, &padded(g_tail)), load(s, &padded(u_tail)));
            gradients::<S, T, A>(s, load(s, &padded(dh_tail)), g, u, (&mut dg, &mut du), false);
            dg_tail.copy_from_slice(&dg[..dh_tail.len()]);
            du_tail.copy_from_slice(&du[..dh_tail.len()]);
        }
        if self.stream {
            s.fence();
        }
    }
}

struct Forward<'a, T, A, const B: usize> {
    cols: usize,
    start: (usize, usize),
    config: Config,
    g: &'a [T],
    u: &'a [T],
    h: &'a mut [T],
    g_codes: &'a mut [u32],
    g_params: &'a mut [bf16],
    u_codes: &'a mut [u32],
    u_params: &'a mut [bf16],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function, const B: usize> Body for Forward<'_, T, A, B> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let group = self.config.group;
        let (first_row, first_column) = self.start;
        let (words, params) = ((self.cols * B).div_ceil(32), 2 * self.cols.div_ceil(group));
        let g_saved = self.g_codes.chunks_mut(words).zip(self.g_params.chunks_mut(params));
        let u_saved = self.u_codes.chunks_mut(words).zip(self.u_params.chunks_mut(params));
        let rows = self.g.chunks(self.cols).zip(self.u.chunks(self.cols)).zip(self.h.chunks_mut(self.cols));
        for (row, (((g, u), h), ((g_codes, g_params), (u_codes, u_params)))) in
            rows.zip(g_saved.zip(u_saved)).enumerate()
        {
            let random = |stream| match self.config.rounding {
                Rounding::Nearest => None,
                Rounding::Stochastic { seed, offset } => {
                    Some(RowRandom::new(seed, offset, stream, (first_row + row) as u64))
                }
            };
            let (g_random, u_random) = (random(0), random(1));
            let groups = g.chunks(group).zip(u.chunks(group)).zip(h.chunks_mut(group));
            let g_saved = g_codes.chunks_mut(group * B / 32).zip(g_params.as_chunks_mut::<2>().0);
            let u_saved = u_codes.chunks_mut(group * B / 32).zip(u_params.as_chunks_mut::<2>().0);
            for (at, (((g, u), h), ((g_codes, g_params), (u_codes, u_params)))) in
                groups.zip(g_saved.zip(u_saved)).enumerate()
            {
                let column = first_column + at * group;
                let g_encoder = extent(s, g).finish(s, B as u32);
                let u_encoder = extent(s, u).finish(s, B as u32);
                (*g_params, *u_params) = (g_encoder.stored, u_encoder.stored);
                let (g_blocks, g_tail) = g.as_chunks::<32>();
                let (u_blocks, u_tail) = u.as_chunks::<32>();
                let (h_blocks, h_tail) = h.as_chunks_mut::<32>();
                for (block, ((g, u), h)) in g_blocks.iter().zip(u_blocks).zip(h_blocks).enumerate() {
                    let column = column + 32 * block;
                    let (g, u) = (load(s, g), load(s, u));
                    let into = B * block..B * (block + 1);
                    g_codes[into.clone()].copy_from_slice(&encode::<S, B>(s, g_encoder, g, g_random, column)[..B]);
                    u_codes[into].copy_from_slice(&encode::<S, B>(s, u_encoder, u, u_random, column)[..B]);
                    product::<S, T, A>(s, g, u, h, self.stream);
                }
                if !g_tail.is_empty() {
                    let column = column + 32 * g_blocks.len();
                    let (g, u, mut h) = (load(s, &padded(g_tail)), load(s, &padded(u_tail)), [T::ZERO; 32]);
                    let from = B * g_blocks.len();
                    let g_words = encode::<S, B>(s, g_encoder, g, g_random, column);
                    let u_words = encode::<S, B>(s, u_encoder, u, u_random, column);
                    copy_bits(&mut g_codes[from..], &g_words, g_tail.len() * B);
                    copy_bits(&mut u_codes[from..], &u_words, g_tail.len() * B);
                    product::<S, T, A>(s, g, u, &mut h, false);
                    h_tail.copy_from_slice(&h[..g_tail.len()]);
                }
            }
        }
        if self.stream {
            s.fence();
        }
    }
}

/// The extent of a group; a part of 32 is filled up with the group's own first value.
#[inline(always)]
fn extent<S: Simd, T: Element>(s: S, values: &[T]) -> Extent<S> {
    let mut extent = Extent::new(s);
    let (blocks, tail) = values.as_chunks::<32>();
    for block in blocks {
        let [low, high] = load(s, block);
        extent.add(s, low);
        extent.add(s, high);
    }
    if !tail.is_empty() {
        let mut block = [values[0]; 32];
        block[..tail.len()].copy_from_slice(tail);
        let [low, high] = load(s, &block);
        extent.add(s, low);
        extent.add(s, high);
    }
    extent
}

/// 32 values as B words.
#[inline(always)]
fn encode<S: Simd, const B: usize>(
    s: S,
    encoder: Encoder,
    values: Pair<S>,
    random: Option<RowRandom>,
    column: usize,
) -> [u32; 8] {
    let most = ((1u32 << B) - 1) as f32;
    let (r_0, r_1) = match random {
        None => (s.splat(0.5), s.splat(0.5)),
        Some(random) => (random.lanes(s, column), random.lanes(s, column + 16)),
    };
    let low = s.pack::<B>(encoder.codes(s, values[0], r_0, most));
    let high = s.pack::<B>(encoder.codes(s, values[1], r_1, most));
    let mut words = [0; 8];
    words[..B / 2].copy_from_slice(&low[..B / 2]);
    words[B / 2..B].copy_from_slice(&high[..B / 2]);
    words
}

/// The first `bits` of `from`; what is left of the last word is zero.
#[inline(always)]
fn copy_bits(to: &mut [u32], from: &[u32], bits: usize) {
    for (at, (to, from)) in to.iter_mut().zip(from).enumerate() {
        let left = bits - 32 * at;
        *to = if left >= 32 { *from } else { from & ((1 << left) - 1) };
    }
}

/// B words as 32 values.
#[inline(always)]
fn decode<S: Simd, const B: usize>(s: S, codes: &[u32], params: [bf16; 2]) -> Pair<S> {
    let (min, step) = (s.splat(Element::to_f32(params[0])), s.splat(Element::to_f32(params[1])));
    let (mut low, mut high) = ([0; 4], [0; 4]);
    low[..B / 2].copy_from_slice(&codes[..B / 2]);
    high[..B / 2].copy_from_slice(&codes[B / 2..B]);
    [s.fma(s.to_f32(s.unpack::<B>(low)), step, min), s.fma(s.to_f32(s.unpack::<B>(high)), step, min)]
}

/// `codes` followed by zeros.
#[inline(always)]
fn padded_words(codes: &[u32]) -> [u32; 8] {
    let mut words = [0; 8];
    words[..codes.len()].copy_from_slice(codes);
    words
}

struct Backward<'a, T, A, const B: usize> {
    cols: usize,
    group: usize,
    dh: &'a [T],
    saved: Saved<'a>,
    dg: &'a mut [T],
    du: &'a mut [T],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function, const B: usize> Body for Backward<'_, T, A, B> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (cols, group) = (self.cols, self.group);
        let rows = self.dh.chunks(cols).zip(self.dg.chunks_mut(cols).zip(self.du.chunks_mut(cols)));
        for ((dh, (dg, du)), saved) in rows.zip(saved_rows::<B>(self.saved, cols, group)) {
            let groups = dh.chunks(group).zip(dg.chunks_mut(group).zip(du.chunks_mut(group)));
            for ((dh, (dg, du)), (g_saved, u_saved)) in groups.zip(saved_groups::<B>(saved, group)) {
                let (dh_blocks, dh_tail) = dh.as_chunks::<32>();
                let (dg_blocks, dg_tail) = dg.as_chunks_mut::<32>();
                let (du_blocks, du_tail) = du.as_chunks_mut::<32>();
                let words = B * dh_blocks.len();
                let codes = g_saved.0.chunks_exact(B).zip(u_saved.0.chunks_exact(B));
                let out = dg_blocks.iter_mut().zip(du_blocks);
                for ((dh, out), (g_codes, u_codes)) in dh_blocks.iter().zip(out).zip(codes) {
                    let g = decode::<S, B>(s, g_codes, *g_saved.1);
                    let u = decode::<S, B>(s, u_codes, *u_saved.1);
                    gradients::<S, T, A>(s, load(s, dh), g, u, out, self.stream);
                }
                if !dh_tail.is_empty() {
                    let g = decode::<S, B>(s, &padded_words(&g_saved.0[words..]), *g_saved.1);
                    let u = decode::<S, B>(s, &padded_words(&u_saved.0[words..]), *u_saved.1);
                    let (mut dg, mut du) = ([T::ZERO; 32], [T::ZERO; 32]);
                    gradients::<S, T, A>(s, load(s, &padded(dh_tail)), g, u, (&mut dg, &mut du), false);
                    dg_tail.copy_from_slice(&dg[..dh_tail.len()]);
                    du_tail.copy_from_slice(&du[..dh_tail.len()]);
                }
            }
        }
        if self.stream {
            s.fence();
        }
    }
}

struct Rematerialize<'a, T, A, const B: usize> {
    cols: usize,
    group: usize,
    saved: Saved<'a>,
    h: &'a mut [T],
    stream: bool,
    activation: PhantomData<A>,
}

impl<T: Element, A: Function, const B: usize> Body for Rematerialize<'_, T, A, B> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (cols, group) = (self.cols, self.group);
        for (h, saved) in self.h.chunks_mut(cols).zip(saved_rows::<B>(self.saved, cols, group)) {
            for (h, (g_saved, u_saved)) in h.chunks_mut(group).zip(saved_groups::<B>(saved, group)) {
                let (h_blocks, h_tail) = h.as_chunks_mut::<32>();
                let words = B * h_blocks.len();
                let codes = g_saved.0.chunks_exact(B).zip(u_saved.0.chunks_exact(B));
                for (h, (g_codes, u_codes)) in h_blocks.iter_mut().zip(codes) {
                    let g = decode::<S, B>(s, g_codes, *g_saved.1);
                    let u = decode::<S, B>(s, u_codes, *u_saved.1);
                    product::<S, T, A>(s, g, u, h, self.stream);
                }
                if !h_tail.is_empty() {
                    let g = decode::<S, B>(s, &padded_words(&g_saved.0[words..]), *g_saved.1);
                    let u = decode::<S, B>(s, &padded_words(&u_saved.0[words..]), *u_saved.1);
                    let mut h = [T::ZERO; 32];
                    product::<S, T, A>(s, g, u, &mut h, false);
                    h_tail.copy_from_slice(&h[..h_tail.len()]);
                }
            }
        }
        if self.stream {
            s.fence();
        }
    }
}

/// Each row's part of `saved`.
#[inline(always)]
fn saved_rows<const B: usize>(saved: Saved<'_>, cols: usize, group: usize) -> impl Iterator<Item = Saved<'_>> {
    let (words, params) = ((cols * B).div_ceil(32), 2 * cols.div_ceil(group));
    let g = saved.g_codes.chunks(words).zip(saved.g_params.chunks(params));
    let u = saved.u_codes.chunks(words).zip(saved.u_params.chunks(params));
    g.zip(u).map(|((g_codes, g_params), (u_codes, u_params))| Saved { g_codes, g_params, u_codes, u_params })
}

type SavedGroup<'a> = (&'a [u32], &'a [bf16; 2]);

/// Each group's codes and parameters, of g and of u.
#[inline(always)]
fn saved_groups<const B: usize>(
    saved: Saved<'_>,
    group: usize,
) -> impl Iterator<Item = (SavedGroup<'_>, SavedGroup<'_>)> {
    let words = group * B / 32;
    let g = saved.g_codes.chunks(words).zip(saved.g_params.as_chunks::<2>().0);
    let u = saved.u_codes.chunks(words).zip(saved.u_params.as_chunks::<2>().0);
    g.zip(u)
}
