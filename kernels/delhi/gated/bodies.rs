//! The gated ops' bodies: sixteen lanes, one chunk of rows each, compiled once per instruction set.
//!
//! Math, layout and the ladder stand in `gated.rs`, which checks every length and deals the chunks out; nothing here checks.

use std::marker::PhantomData;

use half::bf16;

use super::{Config, Rounding, Saved};
use crate::{
    Element,
    delhi::{
        code::padded,
        group::{Encoder, Extent},
    },
    random::RowRandom,
    simd::{Body, Simd, math::Function},
};

pub(super) struct Plain<'a, T, A> {
    pub g: &'a [T],
    pub u: &'a [T],
    pub h: &'a mut [T],
    pub stream: bool,
    pub activation: PhantomData<A>,
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

pub(super) struct ExactBackward<'a, T, A> {
    pub dh: &'a [T],
    pub g: &'a [T],
    pub u: &'a [T],
    pub dg: &'a mut [T],
    pub du: &'a mut [T],
    pub stream: bool,
    pub activation: PhantomData<A>,
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

pub(super) struct Forward<'a, T, A, const B: usize> {
    pub cols: usize,
    pub start: (usize, usize),
    pub config: Config,
    pub g: &'a [T],
    pub u: &'a [T],
    pub h: &'a mut [T],
    pub g_codes: &'a mut [u32],
    pub g_params: &'a mut [bf16],
    pub u_codes: &'a mut [u32],
    pub u_params: &'a mut [bf16],
    pub stream: bool,
    pub activation: PhantomData<A>,
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

pub(super) struct Backward<'a, T, A, const B: usize> {
    pub cols: usize,
    pub group: usize,
    pub dh: &'a [T],
    pub saved: Saved<'a>,
    pub dg: &'a mut [T],
    pub du: &'a mut [T],
    pub stream: bool,
    pub activation: PhantomData<A>,
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

pub(super) struct Rematerialize<'a, T, A, const B: usize> {
    pub cols: usize,
    pub group: usize,
    pub saved: Saved<'a>,
    pub h: &'a mut [T],
    pub stream: bool,
    pub activation: PhantomData<A>,
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
